"""Ollama's Modelfile beside a GGUF file: the same layout of turns, the same words that end an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Render = Callable[[Sequence[Mapping[str, str]], bool], str]
"""A conversation, and whether an answer shall follow → its text."""
WORDS = {"system": "\ue0a0rules\ue0a1", "user": "\ue0a2asked\ue0a3", "assistant": "\ue0a4said\ue0a5"}
"""What stands in for a turn's text while a template is taken apart."""
OTHERWISE = "its chat template does more than putting constant text around the turns, and Ollama's templates can do no more"


@dataclass(frozen=True)
class Layout:
    """What a chat template puts around the turns.

    Args:
        around: role → what stands before and behind a turn of it; without "system" where a template refuses or moves such a turn.
        opening: what stands first of all, the token that begins a text.
        answer: what an answer is asked for by, at the end.
        system: the text of the system turn that stands there where a conversation has none; empty for none.
    """

    around: Mapping[str, tuple[str, str]]
    opening: str
    answer: str
    system: str = ""

    def render(self, messages: Sequence[Mapping[str, str]], answers: bool) -> str:
        """A conversation in this layout, as Ollama would write it."""
        turns = list(messages)
        if self.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        text = "".join(self.around[turn["role"]][0] + turn["content"] + self.around[turn["role"]][1] for turn in turns)
        return self.opening + text + (self.answer if answers else "")


def find_layout(render: Render, begins: str) -> Layout | str:
    """Take a chat template apart into what it puts around the turns; checked on conversations of several shapes.

    Args:
        render: the template.
        begins: the token that begins a text; empty for none.

    Returns:
        The layout; or why there is none, as the end of a sentence.
    """
    user, assistant = ({"role": role, "content": WORDS[role]} for role in ("user", "assistant"))
    try:
        rendered, waiting = render([user], False), render([user], True)
        answered, again = render([user, assistant], False), render([user, assistant, user], False)
    except Exception as problem:  # a template may raise whatever it likes
        return f"its chat template cannot write a plain conversation ({problem})"
    opening = begins if begins and rendered.startswith(begins) else ""
    parts = again.removeprefix(opening).replace(WORDS["assistant"], WORDS["user"]).split(WORDS["user"])
    behind_answer = answered.split(WORDS["assistant"])[-1]
    if len(parts) != 4 or not waiting.startswith(rendered) or not parts[2].startswith(behind_answer):
        return OTHERWISE
    first, behind, before = parts[0], parts[3], parts[2].removeprefix(behind_answer)
    if not first.endswith(before) or not parts[1].startswith(behind):
        return OTHERWISE
    around = {"user": (before, behind), "assistant": (parts[1].removeprefix(behind), behind_answer)}
    system = _around_system(render, user, opening, before)
    if system is not None:
        around["system"] = system
    standing = first.removesuffix(before)  # a system turn where the conversation has none
    if standing and (system is None or not (standing.startswith(system[0]) and standing.endswith(system[1]))):
        return OTHERWISE
    between = standing[len(system[0]) : len(standing) - len(system[1])] if standing and system is not None else ""
    layout = Layout(around, opening, waiting.removeprefix(rendered), between)
    return layout if _holds(layout, render) else OTHERWISE


def _around_system(render: Render, user: Mapping[str, str], opening: str, before: str) -> tuple[str, str] | None:
    """What is put around a system turn; None where a template refuses it or moves it into another turn."""
    try:
        text = render([{"role": "system", "content": WORDS["system"]}, user], False).removeprefix(opening)
    except Exception:  # many templates refuse a system turn
        return None
    parts = text.split(WORDS["user"])[0].split(WORDS["system"])
    return (parts[0], parts[1].removesuffix(before)) if len(parts) == 2 and parts[1].endswith(before) else None


def _holds(layout: Layout, render: Render) -> bool:
    """Whether a layout writes conversations of other words and shapes as the template does."""
    turns = [("user", " what?  "), ("assistant", "\nthis {{ not }}"), ("user", "and\n\nthat"), ("assistant", "so"), ("user", "x")]
    plain = [{"role": role, "content": text} for role, text in turns]
    probes = [plain, plain[:1], plain[:3]]
    probes += [[{"role": "system", "content": "be brief"}, *each] for each in probes] if "system" in layout.around else []
    try:
        return all(layout.render(each, True) == render(each, True) for each in probes)
    except Exception:  # a template may raise whatever it likes
        return False


def go_template(layout: Layout) -> str:
    """A layout as a template of Go, as Ollama reads it; the token that begins a text is added by llama.cpp itself.

    Args:
        layout: of the chat template.
    """
    branches = [f'eq .Role "{role}" }}}}{_go(before)}{{{{ .Content }}}}{_go(behind)}' for role, (before, behind) in layout.around.items()]
    turns = "{{ if " + "{{ else if ".join(branches) + "{{ end }}"
    asks = '{{ if and (eq (len (slice $.Messages $i)) 1) (ne .Role "assistant") }}' + _go(layout.answer) + "{{ end }}"
    return "{{ range $i, $_ := .Messages }}" + turns + asks + "{{ end }}"


def _go(text: str) -> str:
    """Text that a template of Go writes as it is."""
    return text.replace("{{", '{{ "{{" }}')


def modelfile(file: str, layout: Layout | str, ends: Sequence[str], about: Mapping[str, Any]) -> str:
    """What `ollama create` reads.

    Args:
        file: the .gguf beside it.
        layout: of the chat template; or why there is none.
        ends: the words that end an answer.
        about: `name`, `context` (tokens that can be read) and `converses` (whether it was trained to answer).
    """
    lines = [f"# ollama create {about['name']} -f Modelfile", f"FROM ./{file}"]
    if isinstance(layout, Layout):
        lines.append(f'TEMPLATE """{go_template(layout)}"""')
        if layout.system:
            lines.append(f'SYSTEM """{layout.system}"""')
    elif about["converses"]:
        lines.append(
            f"# No TEMPLATE: {layout}. Ollama then takes the nearest template that it knows: use llama-server, which reads the one in the file."
        )
    else:
        lines.append('# It continues text, and was not trained to answer: ask it with "raw": true.')
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    lines += [f'PARAMETER stop "{_quote(end)}"' for end in ends]
    lines += [f"PARAMETER num_ctx {min(about['context'], 8192)}", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1.0"]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
