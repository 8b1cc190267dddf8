"""Many GANs of one shape trained as one batch of models, each in a lane of its own.

Fusing the same operators of several models: HFTA (Wang et al. 2021, https://arxiv.org/abs/2102.02344).
"""
