"""Knowledge distillation for JAX and Flax as pure functions.

Import the room you need; nothing heavier is loaded with it::

    from kdjax import losses            # arrays -> values, needs only JAX
    from kdjax import networks, train   # Flax networks and the compiled step
"""

__version__ = "0.1.0"
