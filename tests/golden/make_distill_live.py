"""What the first step of a distillation with a live teacher must give, by transformers and PyTorch, written to
distill_live.json.

    python3 -m pip install torch transformers
    python3 tests/golden/make_distill_live.py

The teacher is bert/a with another epsilon in its layer norms, so that its embeddings differ too; the student is layers 0 and 2
of bert/a. One step holds all texts, dropout is off, all in f64. Hidden states: TinyBERT (Jiao et al. 2020, eq. 8 and 9) and
DistilBERT's cosine. Relations: MiniLM-v2 (Wang et al. 2021, eq. 5 to 7).
"""

import json
import pathlib

import torch
import torch.nn.functional as F
import transformers
from transformers import BertForSequenceClassification

HERE = pathlib.Path(__file__).resolve().parent
LAYERS, EPS = [0, 2], 0.1

found = json.loads((HERE / "bert/a/texts.json").read_text())
texts, ids = found["texts"][:12], found["input_ids"][:12]
labels = [i * 2 % 3 for i in range(len(texts))]


def opened(**settings):
    return BertForSequenceClassification.from_pretrained(HERE / "bert/a", attn_implementation="eager", **settings).double().eval()


class Seen:
    """Logits, hidden states, and queries, keys and values of every layer, of each text."""

    def __init__(self, model):
        self.qkv = []
        layers = model.bert.encoder.layer
        for layer in layers:
            own = layer.attention.self
            for part in (own.query, own.key, own.value):
                part.register_forward_hook(lambda module, x, y: self.now.append(y[0]))
        self.hidden, logits = [], []
        with torch.no_grad():
            for row in ids:
                self.now = []
                out = model(input_ids=torch.tensor([row]), output_hidden_states=True)
                self.hidden.append([h[0] for h in out.hidden_states])
                self.qkv.append([self.now[3 * i : 3 * i + 3] for i in range(len(layers))])
                logits.append(out.logits)
        self.logits = torch.cat(logits)


teacher = Seen(opened(layer_norm_eps=EPS))
model = opened()
model.bert.encoder.layer = torch.nn.ModuleList(model.bert.encoder.layer[i] for i in LAYERS)
student = Seen(model)


def states(pairs, distance):
    """The sum over pairs of entries of hidden states of the mean over all tokens."""
    total = 0.0
    for own, other in pairs:
        s, t = (torch.cat([h[i] for h in seen.hidden]) for seen, i in [(student, own), (teacher, other)])
        ones = torch.ones(len(s), dtype=torch.double)
        total += F.mse_loss(s, t).item() if distance == "mse" else F.cosine_embedding_loss(s, t, ones).item()
    return total


def relations(heads, layer):
    total = 0.0
    for own, other in zip(student.qkv, teacher.qkv):
        for s, t in zip(own[-1], other[layer]):
            log_q, p = [], []
            for x, out in [(s, log_q), (t, p)]:
                x = x.view(len(x), heads, -1).transpose(0, 1)
                out.append(F.log_softmax(x @ x.transpose(1, 2) / x.shape[-1] ** 0.5, -1))
            total += F.kl_div(log_q[0], p[0], log_target=True, reduction="sum").item() / (heads * len(s))
    return total / len(ids)


hard = F.cross_entropy(student.logits, torch.tensor(labels)).item()
log_q, p = F.log_softmax(student.logits / 2, -1), F.softmax(teacher.logits / 2, -1)
soft = 4 * F.kl_div(log_q, p, reduction="batchmean").item()
# Layer i gives entry i + 1 of the hidden states; entry 0 is the embeddings.
uniform = [(1, 1), (2, 3)]
none = "label_weight = 0\nlogits_weight = 0\n"
cases = {
    f"{none}hidden_weight = 1": states(uniform, "mse"),
    f"{none}hidden_weight = 2\nhidden_layers = 'last'\nhidden_loss = 'cosine'": 2 * states([(2, 3)], "cosine"),
    f"{none}hidden_weight = 1\nhidden_layers = [[0, 1], [0, 2], [1, 0]]": states([(1, 2), (1, 3), (2, 1)], "mse"),
    f"{none}embedding_weight = 3": 3 * states([(0, 0)], "mse"),
    f"{none}relation_weight = 1\nrelation_heads = 8": relations(8, 2),
    f"{none}relation_weight = 0.5\nrelation_heads = 2\nrelation_layer = 1": 0.5 * relations(2, 1),
    "preset = 'minilm'": relations(32, 2),
    "preset = 'tinybert'\nprojection = false": states(uniform, "mse") + states([(0, 0)], "mse") + relations(32, 2),
    "hidden_weight = 1\nembedding_weight = 0.25": 0.5 * hard + 0.5 * soft + states(uniform, "mse") + 0.25 * states([(0, 0)], "mse"),
}
result = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "layers": LAYERS,
    "layer_norm_eps": EPS,
    "classes": [model.config.id2label[i] for i in range(3)],
    "texts": texts,
    "labels": labels,
    "cases": [{"keys": keys, "loss": loss} for keys, loss in cases.items()],
}
(HERE / "distill_live.json").write_text(json.dumps(result, indent=1) + "\n")
