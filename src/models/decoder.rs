//! The output projection of a masked-LM head, from hidden states to the vocabulary. Its weight is the token
//! embedding (tied) or a tensor of its own.

use super::architecture::Architecture;
use super::config::Config;
use super::heads::plain;
use crate::checkpoint::Weights;
use crate::error::Result;

/// The full names of the projection's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoder {
    /// Its weight (vocab, embedding); `None` if it is tied to the token embedding.
    pub weight: Option<String>,
    /// Its bias (vocab), if there is one.
    pub bias: Option<String>,
    /// Pairs (name, alias): a file may hold the alias instead of the name, or both with the same values.
    pub aliases: Vec<(String, String)>,
    /// A warning about the files, for the load report.
    pub warning: Option<String>,
}

impl Decoder {
    /// The token embedding and a bias, as in most models.
    pub fn tied(architecture: &Architecture) -> Decoder {
        let bias = architecture.decoder().map(|(_, bias)| bias.to_owned());
        Decoder { bias, ..Decoder::default() }
    }
    /// The projection that the config describes. If the config ties the weights but the files hold two
    /// different tensors, they are not tied, as in transformers 5 (`PreTrainedModel.tie_weights`).
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
                    "the weights have no `{own_bias}`; tempra uses `{shared_bias}` instead, the name that transformers 4 wrote"
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
    /// The alias under which files may hold this tensor.
    pub fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.iter().find(|(first, _)| first == name).map(|(_, second)| second.as_str())
    }
    /// The second name under which transformers expects an untied bias.
    pub fn written_twice(&self, name: &str) -> Option<&str> {
        self.alias(name).filter(|_| self.bias.as_deref() == Some(name) && name.ends_with("decoder.bias"))
    }
}
