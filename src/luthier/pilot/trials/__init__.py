"""A search at work: racing (which trials go on), runner (a trial here), afar and answering (a trial elsewhere), ending, outcome."""
