"""The web page: routes, sessions, roles, the stream of events."""
