"""Heat maps of units over a text, as HTML and SVG; made of the result of a trace job. No torch, no web."""
