"""What the first step of a distillation must give, by transformers and PyTorch, written to distill.json.

    python3 -m pip install torch transformers
    python3 tests/golden/make_distill.py

The teacher is bert/a, the student its layers 0 and 2 with the same embeddings and head. One step holds all texts, dropout is
off: loss = (1 - weight) CE + weight T^2 KL(teacher || student), both means over the texts, in f64.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
import transformers
from transformers import BertForSequenceClassification

HERE = pathlib.Path(__file__).resolve().parent
LAYERS = [0, 2]

found = json.loads((HERE / "bert/a/texts.json").read_text())
texts, ids = found["texts"][:12], found["input_ids"][:12]
labels = [i * 2 % 3 for i in range(len(texts))]
open_ = lambda: BertForSequenceClassification.from_pretrained(HERE / "bert/a", attn_implementation="eager").double().eval()
teacher, student = open_(), open_()
student.bert.encoder.layer = torch.nn.ModuleList(student.bert.encoder.layer[i] for i in LAYERS)
run = lambda model: torch.cat([model(input_ids=torch.tensor([row])).logits for row in ids])
with torch.no_grad():
    t, s = run(teacher), run(student)
hard = F.cross_entropy(s, torch.tensor(labels)).item()


def soft(temperature):
    log_q, p = F.log_softmax(s / temperature, -1), F.softmax(t / temperature, -1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean").item()


cases = [{"weight": w, "temperature": T, "loss": (1 - w) * hard + w * soft(T)} for w, T in [(0.5, 2.0), (0.9, 4.0), (1.0, 1.0)]]
result = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "layers": LAYERS,
    "classes": [teacher.config.id2label[i] for i in range(3)],
    "texts": texts,
    "labels": labels,
    "teacher": t.flatten().tolist(),
    "cases": cases,
}
(HERE / "distill.json").write_text(json.dumps(result, indent=1) + "\n")
