"""How fast a director index is built: Qserv's protocol, this project, and the ceiling, side by side."""
