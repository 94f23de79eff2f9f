"""Floor 9: the HTTP server. Two processes: the front (HTTP, no torch) and the engine, which talk over private sockets.

    app.py        the front put together: routes, middleware, error shapes
    routes_*.py   one file per group of routes; schemas.py says what they take
    link.py       the front's end of the sockets: streams of requests, health of the engine
    messages.py   what the two processes say to each other
    engine.py     the engine process: the loop, the reception of requests, heartbeats
"""
