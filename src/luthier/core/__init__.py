"""Types, protocols, tables, the run folder, findings and errors, which all other rooms use; imports nothing of ours."""
