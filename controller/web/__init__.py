"""The web page: what an operator sees and asks for in a browser. Rendered here, live by htmx and server-sent events."""
