"""`ct-llm watch --serve`: the Hub says that something was pushed, and a cycle is started.

    events.py   what of an event concerns this configuration
    queue.py    one start at a time; what comes meanwhile makes one more, and so does a brake's end
    start.py    a start: `ct-llm run` on this machine, or a workflow on GitHub
    app.py      HTTP: the secret, sizes, answers
    serve.py    the server, from configuration to the last signal

Events, brakes that end and the server's own start decide nothing but when to look: whether there is
reason to train, the cycle itself asks.
"""
