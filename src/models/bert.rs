//! BERT (Devlin et al. 2019) and what shares its architecture: MiniLM, and all else of `model_type` `bert`.

use super::PairObjective;
use super::architecture::{
    Architecture, BERT_NAMES, Classes, Drop, Masked, NO_DROP, Pretraining, SequenceHead,
};
use crate::ops::Activation;

pub(super) const BERT: Architecture = Architecture {
    model_type: "bert",
    prefix: "bert.",
    names: BERT_NAMES,
    classes: Classes {
        sequence: "BertForSequenceClassification",
        token: "BertForTokenClassification",
        question: "BertForQuestionAnswering",
        masked: Some("BertForMaskedLM"),
    },
    head: SequenceHead {
        dense: "bert.pooler.dense",
        act: Activation::Tanh,
        pooler: true,
        drop_before: false,
        norm: None,
        pooling: None,
        classifier: "classifier",
        dropout: Drop { key: "classifier_dropout", default: None },
    },
    masked: Some(Masked {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        bias: "cls.predictions.bias",
        decoder: "cls.predictions.decoder",
        act: None,
    }),
    permuted: None,
    dense_tokens: false,
    span_dropout: NO_DROP,
    pretraining: Some(Pretraining {
        class: "BertForPreTraining",
        classifier: "cls.seq_relationship",
        objective: PairObjective::Next,
        dropout: false,
    }),
    // The keys of transformers' `BertConfig`.
    read: |c| c.bert_like(),
};
