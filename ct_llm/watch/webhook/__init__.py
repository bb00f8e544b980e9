"""`ct-llm watch --serve`: the Hub says that something was pushed, and a cycle is started.

    events.py   what of an event concerns this configuration
    queue.py    one start at a time; what comes meanwhile makes one more
    start.py    a start: `ct-llm run` on this machine, or a workflow on GitHub
    app.py      HTTP: the secret, sizes, answers
    serve.py    the server, from configuration to the last signal

An event decides nothing but when to look: whether there is reason to train, the cycle itself asks.
"""
