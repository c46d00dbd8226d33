"""Whether what was exported, or what a server answers, says what the trainer says: stage by stage."""
