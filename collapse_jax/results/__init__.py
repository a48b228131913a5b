"""From records of a run to labelled data: histories, summaries, survival, closed forms."""
