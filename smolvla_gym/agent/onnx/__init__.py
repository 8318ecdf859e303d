"""Policies exported to ONNX: two graphs that run without torch, and the files of the checkpoint beside them.

* ``graphs``: the network as two modules; ``export``: write them and compare them with the sampler (both need torch).
* ``folder``: read and check an exported folder; ``model_file``: check a graph before ONNX Runtime gets it.
* ``network``: compute a chunk with ONNX Runtime; ``processing``: tokens, images and normalisation in NumPy.
* ``policy``: the policy, a :class:`~smolvla_gym.agent.policies.base.ChunkPolicy`.
"""
