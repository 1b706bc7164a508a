//! The last map of a masked-LM head, from its vectors to the vocabulary: the token table and a bias, or tensors of its own.

use super::architecture::Architecture;
use super::config::Config;
use super::heads::plain;
use crate::checkpoint::Weights;
use crate::error::Result;

/// Which tensors the map has, by their whole names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoder {
    /// Its weight (vocab, embedding); `None`: the token table.
    pub weight: Option<String>,
    /// Its bias (vocab), if there is one.
    pub bias: Option<String>,
    /// Tensors that files may hold in place of others, which come first, or beside them with the same values.
    pub aliases: Vec<(String, String)>,
    /// What is to be said of the files.
    pub warning: Option<String>,
}

impl Decoder {
    /// The token table and a bias, as most models have it.
    pub fn tied(architecture: &Architecture) -> Decoder {
        let bias = architecture.decoder().map(|(_, bias)| bias.to_owned());
        Decoder { bias, ..Decoder::default() }
    }
    /// What the config asks for. Where it ties the weights and the files hold two of them that differ, they are not tied, as in
    /// transformers 5 (`PreTrainedModel.tie_weights`).
    pub fn of(architecture: &Architecture, config: &Config, files: &Weights) -> Result<Decoder> {
        let Some((stem, shared_bias)) = architecture.decoder() else { return Ok(Decoder::default()) };
        let tie = config.optional_flag("tie_word_embeddings")?.unwrap_or(true);
        let biased =
            config.optional_flag("decoder_bias")?.unwrap_or(true) || !architecture.bias_is_optional();
        let (weight, own_bias) = (format!("{stem}.weight"), format!("{stem}.bias"));
        let table = architecture.tensor("embeddings.word_embeddings.weight");
        let short = table.strip_prefix(architecture.prefix).map(str::to_owned);
        let stored = |name: &str| files.names().find(|n| plain(n) == name).and_then(|n| files.get(n));
        let differ = |a: &str, b: Option<&str>| match (stored(a), b.and_then(stored)) {
            (Some(a), Some(b)) => a.shape != b.shape || a.dtype != b.dtype || a.bytes != b.bytes,
            _ => false,
        };
        let mut found = Decoder::default();
        if !tie || differ(&weight, Some(&table)) || differ(&weight, short.as_deref()) {
            found.weight = Some(weight);
        } else {
            found.aliases.push((table, weight));
        }
        if !biased {
            return Ok(found);
        }
        if own_bias == shared_bias {
            found.bias = Some(own_bias);
        } else if !tie || differ(&own_bias, Some(shared_bias)) {
            if !tie && stored(&own_bias).is_none() && stored(shared_bias).is_some() {
                found.warning = Some(format!(
                    "`{own_bias}` is not in the file, and `{shared_bias}` is used in its place, as transformers 4 wrote it"
                ));
            }
            found.aliases.push((own_bias.clone(), shared_bias.to_owned()));
            found.bias = Some(own_bias);
        } else {
            found.aliases.push((shared_bias.to_owned(), own_bias));
            found.bias = Some(shared_bias.to_owned());
        }
        Ok(found)
    }
    /// The tensor that files may hold in place of this one, or beside it.
    pub fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.iter().find(|(first, _)| first == name).map(|(_, second)| second.as_str())
    }
    /// The second name under which transformers expects a bias of its own.
    pub fn written_twice(&self, name: &str) -> Option<&str> {
        self.alias(name).filter(|_| self.bias.as_deref() == Some(name) && name.ends_with("decoder.bias"))
    }
}
