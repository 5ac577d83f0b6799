"""Internal reinforcement learning (Kobayashi et al., arXiv 2512.20605) in JAX.

Array axes are named once, here, and shape-suffixed in the code (``e_TD``, ``logits_TA``):
S seeds, B episodes, T steps, D residual width, H heads, K head width, L layers, A actions,
Z code size, R rank, G subgoals, O colours, W walls, N grid cells, Q tasks;
of CompILE M segments, P positions (the steps and the end), E encoder width.
The paper's letters keep their meaning: e residual stream, z code, beta switch, U controller, alpha KL weight.
"""

__version__ = "0.1.0"
