"""What the language family is made of; `families/language.py` makes a family of it."""
