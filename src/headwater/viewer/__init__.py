"""The web page: questions that are clicked, answers that are looked at."""
