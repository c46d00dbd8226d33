"use strict";
// Everything that a model or a person says is put into the page as text, never as markup.
const find = (id) => document.getElementById(id);
const make = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
let model = null;
let turns = [];
let running = null;

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname); // so that it is in no history and no bookmark
  }
  return sessionStorage.getItem("token") || "";
}

async function call(path, body, signal) {
  const headers = { Authorization: "Bearer " + token() };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    const problem = new Error(said.error ? said.error.message : "the server answered " + answer.status);
    problem.status = answer.status;
    throw problem;
  }
  return answer;
}

async function begin() {
  let info;
  try {
    info = await (await call("/info")).json();
  } catch (problem) {
    find("locked").hidden = problem.status !== 401;
    find("about").textContent = problem.status === 401 ? "The model answers those who have the token." : problem.message;
    return;
  }
  find("locked").hidden = true;
  if (!info.model) {
    find("about").textContent = "The model is being loaded …";
    setTimeout(begin, 700);
    return;
  }
  model = info.model;
  const verdict = model.verdict;
  find("name").textContent = model.name;
  find("about").textContent = model.family.replace(/_/g, " ") + (model.base ? ", from " + model.base : "") +
    (verdict ? " · " + verdict.verdict.replace(/_/g, " ") + ": " + verdict.metric + " " + verdict.value.toFixed(3) + " [" + verdict.low.toFixed(3) + ", " + verdict.high.toFixed(3) + "]" : "");
  find("ask").hidden = find("code").hidden = false;
  find("what").textContent = chats() ? "Talk to it" : "Ask it";
  find("fields").replaceChildren(...fields());
  find("curl").textContent = curl();
}

const chats = () => model.routes.includes("/v1/chat/completions");
const writes = () => !chats() && model.routes.includes("/v1/completions");
const isImage = (text) => typeof text === "string" && text.startsWith("data:image/");

function fields() {
  if (chats() || writes()) return [area("text", chats() ? "Your turn" : "A text that it goes on with", "")];
  const made = [];
  for (const [name, example] of Object.entries(model.example)) {
    if (!isImage(example)) {
      made.push(area(name, name, example));
      continue;
    }
    const label = make("label", "An image");
    const input = make("input");
    input.type = "file";
    input.accept = "image/*";
    input.dataset.column = name;
    label.append(input);
    made.push(label);
  }
  return made;
}

function area(name, title, text) {
  const label = make("label", title);
  const input = make("textarea");
  input.dataset.column = name;
  input.value = text;
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (chats() && !event.shiftKey))) {
      event.preventDefault();
      send();
    }
  });
  label.append(input);
  return label;
}

const readFile = (file) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => fail(new Error("the file cannot be read"));
  reader.readAsDataURL(file);
});

async function row() {
  const made = {};
  for (const input of find("fields").querySelectorAll("[data-column]")) {
    if (input.type !== "file") made[input.dataset.column] = input.value;
    else if (input.files.length) made[input.dataset.column] = await readFile(input.files[0]);
    else throw new Error("choose an image");
  }
  return made;
}

async function send() {
  if (running) return;
  running = new AbortController();
  find("problem").textContent = find("time").textContent = "";
  find("send").disabled = true;
  find("stop").hidden = false;
  const began = performance.now();
  try {
    if (chats() || writes()) await talk();
    else {
      const said = await (await call("/predict", { rows: [await row()] }, running.signal)).json();
      find("answer").replaceChildren(...show(said.data[0]));
    }
    find("time").textContent = Math.round(performance.now() - began) + " ms";
  } catch (problem) {
    if (problem.name !== "AbortError") find("problem").textContent = problem.message;
  } finally {
    running = null;
    find("send").disabled = false;
    find("stop").hidden = true;
  }
}

async function talk() {
  const input = find("fields").querySelector("textarea");
  const text = input.value;
  if (!text.trim()) return;
  let said = make("p", "", chats() ? "turn" : "result");
  if (chats()) {
    turns.push({ role: "user", content: text });
    find("talk").append(make("p", text, "turn user"), said);
    input.value = "";
  } else find("answer").replaceChildren(said);
  const body = { model: model.name, stream: true };
  if (chats()) body.messages = turns;
  else Object.assign(body, { prompt: text, temperature: 0.8 });
  try {
    const answer = await call(chats() ? "/v1/chat/completions" : "/v1/completions", body, running.signal);
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (choice) said.textContent += (choice.delta ? choice.delta.content : choice.text) || "";
    }
  } finally {
    if (chats() && said.textContent.trim()) turns.push({ role: "assistant", content: said.textContent });
    else if (chats()) turns.pop();
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const one of whole) {
      const data = one.replace(/^data: /, "");
      if (data === "[DONE]") continue; // read on to the end, or the browser counts the request as broken off
      yield JSON.parse(data);
    }
  }
}

function show(said) {
  const made = [];
  if (said.spans) made.push(spans(said));
  else for (const name of ["label", "text", "value", "anomaly_score"])
    if (said[name] !== undefined && said[name] !== null) made.push(make("p", typeof said[name] === "number" ? said[name].toPrecision(5) : said[name] || "–", "result"));
  if (said.labels) made.push(make("p", said.labels.join(", ") || "no label", "result"));
  const sure = Object.entries(said.probabilities || {}).sort((one, two) => two[1] - one[1]).slice(0, 12);
  for (const [label, value] of sure) {
    const bar = make("div", undefined, "bar");
    const line = make("progress");
    line.max = 1;
    line.value = value;
    bar.append(make("span", label), line, make("output", (100 * value).toFixed(1) + " %"));
    made.push(bar);
  }
  const rest = Object.entries(said).filter(([name]) => !["row", "label", "text", "value", "labels", "probabilities", "confidence", "spans", "anomaly_score"].includes(name));
  if (rest.length) made.push(make("pre", JSON.stringify(Object.fromEntries(rest), (name, value) => Array.isArray(value) && value.length > 24 ? value.slice(0, 24).concat("… " + value.length + " numbers") : value, 1)));
  return made;
}

function spans(said) {
  const text = make("p", undefined, "result");
  let place = 0;
  const characters = Array.from(said.text); // the server counts characters, JavaScript pairs
  for (const span of said.spans) {
    text.append(characters.slice(place, span.start).join(""));
    const mark = make("mark", characters.slice(span.start, span.end).join(""));
    mark.append(make("small", span.label));
    text.append(mark);
    place = span.end;
  }
  text.append(characters.slice(place).join(""));
  return text;
}

function curl() {
  const path = chats() ? "/v1/chat/completions" : writes() ? "/v1/completions" : "/predict";
  const example = Object.fromEntries(Object.entries(model.example).map(([name, value]) => [name, isImage(value) ? "BASE64" : value]));
  const body = chats() ? { model: model.name, messages: [{ role: "user", content: "Hello!" }] } : writes() ? { model: model.name, prompt: "It was" } : { rows: [example] };
  return "curl " + location.origin + path + ' -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d \'' + JSON.stringify(body).replaceAll("'", "'\\''") + "'";
}

find("send").addEventListener("click", send);
find("stop").addEventListener("click", () => running && running.abort());
find("unlock").addEventListener("click", () => {
  sessionStorage.setItem("token", find("token").value.trim());
  begin();
});
begin();
