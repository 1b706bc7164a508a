"""Masks of movement pruning and the gradient of its penalty, by PyTorch. Writes movement.json.

Sanh et al. 2020, sec. 3 and 4: W' = M W, where M has the highest scores (hard) or those whose sigmoid is above
tau (soft). The penalty is lambda times the mean over the matrices of the mean sigmoid of their scores.
"""

import json
import pathlib

import torch

torch.manual_seed(11)


def hard(scores, share):
    """The int(share n) highest scores are kept."""
    mask = torch.zeros_like(scores)
    mask.view(-1)[scores.flatten().argsort(descending=True)[: int(share * scores.numel())]] = 1
    return mask


def soft(scores, tau):
    return (torch.sigmoid(scores) > tau).float()


# Every share of every matrix is a whole number of scores.
scores = [torch.randn(8, 9), torch.randn(5, 16) * 3, torch.randn(16)]
cases = []
for share in [0.25, 0.5, 0.875]:
    cases.append({"method": "movement", "share": share, "masks": [hard(s, share).flatten().tolist() for s in scores]})
for tau in [0.05, 0.5, 0.7]:
    cases.append({"method": "soft_movement", "tau": tau, "masks": [soft(s, tau).flatten().tolist() for s in scores]})

# The penalty: lambda times the mean over matrices of the mean sigmoid.
leaves = [s.double().clone().requires_grad_() for s in scores]
penalty = 3.0 * sum(torch.sigmoid(s).mean() for s in leaves) / len(leaves)
penalty.backward()

out = {
    "torch": torch.__version__,
    "scores": [s.flatten().tolist() for s in scores],
    "cases": cases,
    "penalty": {"lambda": 3.0, "gradients": [s.grad.flatten().tolist() for s in leaves]},
}
pathlib.Path(__file__).with_name("movement.json").write_text(json.dumps(out) + "\n")
