//! Makes a model folder smaller without changing what it computes: attention heads and feed-forward rows that
//! cannot matter are removed, layers that the caller names, and tokens that a corpus does not need. Both
//! models then run over the same texts, and nothing is written if they differ.

mod folder;
mod proof;
mod stock;
mod vocabulary;
mod weights;

pub use proof::Proof;

use super::layers::{influence, remaining};
use crate::checkpoint::{Dtype, Fs, NamedFile, TensorOut, Weights, write_model};
use crate::data::TokenSet;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::files::{parent, remove_any, sibling};
use crate::models::{Architecture, Model, Options, Outputs, check_layers, resizable, resize};
use crate::nn::{EncoderConfig, LayerShape};
use crate::rng::Rng;
use crate::text::Reduced;
use proof::{MAX_TOKENS, Side, compare, token_set};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use weights::LayerCut;

/// The folder of the stock form, inside of the smaller model's folder.
pub const STOCK: &str = "model-stock";
/// The longest text of the comparison, in tokens.
const LONGEST: usize = 128;
/// The most texts of a corpus that the models are compared on.
const MOST_TEXTS: usize = 64;
/// The numbers of texts with random tokens, for a folder without a tokenizer, and their tokens.
const RANDOM: [usize; 2] = [16, 24];

/// What is compared if no texts are given.
const TEXTS: &[&str] = &[
    "A fine film, and a funny one.",
    "The service was slow, the soup was cold, and nobody seemed to care.",
    "In 2019 the company reported a loss of 3.5 million euros; a year later it was profitable.",
    "Who wrote the first program for a machine that did not exist yet?",
    "No.",
    "Alice went to Paris with Bob. They took the night train from Zurich and arrived at 6:42.",
    "The patient was given 40 mg of the drug twice a day for 14 days without adverse effects.",
    "He said that she said that they had said nothing at all, which was not what anybody remembered.",
    "Straßenbahn, café, naïve, Łódź, señor: words that not every tokenizer keeps.",
    "If the temperature drops below -5 °C, the valve (see section 4.2) closes and the alarm is raised.",
    "I have never been so bored in my life!!! Two hours of people staring out of windows...",
    "Gradient descent with momentum converges faster on ill-conditioned problems than without it.",
];

/// How a model is made smaller.
#[derive(Clone, Debug, Default)]
pub struct ShrinkOptions {
    /// The layers that stay, in this order; `None`: all.
    pub layers: Option<Vec<usize>>,
    /// How many layers to remove instead: those that change the hidden states of the texts least.
    pub drop_layers: usize,
    /// The texts whose tokens stay in the vocabulary; `None`: all tokens stay.
    pub corpus: Option<Vec<String>>,
    /// The texts that both models are run on; empty: some sentences that come with tempra. With a corpus its
    /// first texts are used instead.
    pub texts: Vec<String>,
    /// Whether to leave out the stock form.
    pub no_stock: bool,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShrunkLayer {
    /// Its number in the model.
    pub layer: usize,
    /// Attention heads before and after.
    pub heads: [usize; 2],
    /// Feed-forward rows before and after.
    pub rows: [usize; 2],
}

/// The form in which transformers opens the smaller model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "form", rename_all = "lowercase")]
pub enum StockForm {
    /// The folder itself: all its layers are alike, and their heads divide the hidden size.
    Same,
    /// The folder [`STOCK`] inside of it.
    Written {
        /// Heads of every layer, padded with zeros.
        heads: usize,
        /// Feed-forward rows of every layer, filled up with zeros.
        intermediate: usize,
        /// Its parameters.
        parameters: usize,
        /// The bytes of its weights.
        bytes: u64,
    },
    /// There is none; the text says why.
    None {
        /// Why.
        why: String,
    },
}

/// What [`shrink`] did.
#[derive(Clone, Debug, Serialize)]
pub struct Shrunk {
    /// The layers that stay.
    pub layers: Vec<ShrunkLayer>,
    /// The layers that were removed.
    pub removed_layers: Vec<usize>,
    /// The block influence of each layer of the model, if layers were chosen by it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub influence: Vec<f64>,
    /// Rows of the token table before and after.
    pub vocabulary: [usize; 2],
    /// Files of the tokenizer that are not written; `tokenizer.json` replaces them.
    pub left_out: Vec<String>,
    /// Parameters before and after.
    pub parameters: [usize; 2],
    /// Bytes of the weights before and after.
    pub bytes: [u64; 2],
    /// The form for transformers.
    pub stock: StockForm,
    /// The comparison of the smaller model with the original one.
    pub proof: Proof,
    /// The comparison of the stock form with the original model, if it was written.
    pub stock_proof: Option<Proof>,
}

/// Writes a smaller model that computes the same as the one in the folder `model` into the new folder `out`.
///
/// It removes heads and feed-forward rows that the output does not depend on, the layers that
/// `options.layers` leaves out, and the tokens that `options.corpus` does not need. With layers left out, the
/// reference of the comparison is the original model with the layers that stay.
///
/// # Errors
/// [`Kind::Usage`] if `out` exists, if there is nothing to remove, or for layers that the model does not
/// have; [`Kind::Model`] for a folder that is no model, an architecture whose layers share weights or depend
/// on their places, a tokenizer from which no tokens can be removed, and outputs that differ by more than
/// rounding; [`Kind::Disk`] if a file cannot be
/// written. `out` does not exist then.
pub fn shrink(fs: &dyn Fs, model: &Path, out: &Path, options: &ShrinkOptions) -> Result<Shrunk> {
    if out.symlink_metadata().is_ok() {
        return Err(Error::usage("the output folder exists already")
            .at(out)
            .with_expected("a folder that does not exist yet")
            .with_help("name another folder, or remove this one"));
    }
    let (options, influence) = &with_chosen_layers(model, options)?;
    let source = Source::read(model, options)?;
    let small = source.small()?;
    let temp = sibling(out, "tmp");
    let run = || {
        fs.mkdir(parent(out)).map_err(|e| unwritable(out, &e))?;
        let others = source.others()?;
        write(fs, &temp, &small.config, small.tensors.clone(), &others)?;
        let positions = source.encoder.positions;
        let before = tokens_of(model, [positions, source.encoder.vocab], &source.texts)?;
        let mut after = before.clone();
        if let (Some(reduced), Some(corpus)) = (&source.reduced, &options.corpus) {
            let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
            vocabulary::check(model, &temp, reduced, &corpus)?;
            after = tokens_of(&temp, [positions, reduced.kept.len()], &source.texts)?;
        }
        let reference = Side { dir: model, layers: options.layers.clone(), set: &before };
        let proof = compare(&reference, &Side { dir: &temp, layers: None, set: &after })?;
        let stock_dir = temp.join(STOCK);
        let (stock, stock_proof) = match small.stock(&source, options)? {
            Stock::None(form) => (form, None),
            Stock::Folder(form, config, tensors) => {
                write(fs, &stock_dir, &config, tensors, &others)?;
                (form, Some(compare(&reference, &Side { dir: &stock_dir, layers: None, set: &after })?))
            }
        };
        fs.sync_dir(&temp).map_err(|e| unwritable(&temp, &e))?;
        fs.rename(&temp, out).map_err(|e| unwritable(out, &e))?;
        fs.sync_dir(parent(out)).map_err(|e| unwritable(out, &e))?;
        let report = source.report(&small, (proof, stock_proof), stock);
        Ok(Shrunk { influence: influence.clone(), ..report })
    };
    run().inspect_err(|_| {
        let _ = remove_any(fs, &temp);
    })
}

/// The options with the layers that stay if `drop_layers` go, and the influence that they were chosen by.
fn with_chosen_layers(model: &Path, options: &ShrinkOptions) -> Result<(ShrinkOptions, Vec<f64>)> {
    if options.drop_layers == 0 {
        return Ok((options.clone(), Vec::new()));
    }
    let (_, _, encoder) = resizable(model)?;
    let depth = encoder.layers.len();
    if options.layers.is_some() {
        return Err(Error::usage("--layers and --drop-layers are both given")
            .with_expected("one of them")
            .with_help("leave out --drop-layers: --layers names the layers that stay"));
    }
    if options.drop_layers >= depth {
        return Err(Error::usage("--drop-layers would remove every layer")
            .at(model)
            .with_expected(format!("less than {depth}, the layers of the model"))
            .with_found(options.drop_layers.to_string())
            .with_help("lower --drop-layers"));
    }
    let device = Device::open("cpu", 0)?;
    let headless = Options { outputs: Some(Outputs::Embedding), ..Options::default() };
    let (opened, _) = Model::open(&device, model, &headless)?;
    let set = tokens_of(model, [encoder.positions, encoder.vocab], &texts_of(options))?;
    let influence = influence(&device, &opened, &set, MAX_TOKENS)?;
    let layers = Some(remaining(&influence, options.drop_layers));
    Ok((ShrinkOptions { layers, drop_layers: 0, ..options.clone() }, influence))
}

/// The texts that models run on.
fn texts_of(options: &ShrinkOptions) -> Vec<&str> {
    match &options.corpus {
        Some(corpus) => corpus.iter().take(MOST_TEXTS).map(String::as_str).collect(),
        None if options.texts.is_empty() => TEXTS.to_vec(),
        None => options.texts.iter().map(String::as_str).collect(),
    }
}

/// The tokens of texts by the tokenizer of a folder, at most `positions` of each; random ones below `vocab`
/// for a folder without a tokenizer.
fn tokens_of(dir: &Path, [positions, vocab]: [usize; 2], texts: &[&str]) -> Result<TokenSet> {
    let longest = positions.min(LONGEST);
    let files = ["tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"];
    if files.iter().any(|name| dir.join(name).exists()) {
        let tokenizer = vocabulary::of_folder(dir)?;
        let items: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        let rows = tokenizer.encode_batch(&items, longest)?;
        return Ok(token_set(rows.into_iter().map(|e| {
            let types = tokenizer.types(&e.types).into_owned();
            (e.ids, types)
        })));
    }
    let mut rng = Rng::new(0, "shrink", 0);
    let [texts, tokens] = RANDOM;
    let mut one = |i: usize| {
        let length = (1 + i * tokens / texts).min(longest);
        let ids: Vec<u32> = (0..length).map(|_| rng.below(vocab as u32)).collect();
        (ids, vec![0; length])
    };
    Ok(token_set((0..texts).map(&mut one)))
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::io(Kind::Disk, "cannot write", path, e)
        .with_help("check the free space of the disk and the permissions of the folder")
}

fn write(
    fs: &dyn Fs,
    dir: &Path,
    config: &Value,
    tensors: Vec<TensorOut>,
    others: &[NamedFile<'static>],
) -> Result<()> {
    let text = format!("{config:#}\n");
    let own = [
        NamedFile::bytes("config.json", text.into_bytes()),
        NamedFile::tensors("model.safetensors", tensors),
    ];
    let files: Vec<NamedFile> = own.into_iter().chain(others.iter().cloned()).collect();
    write_model(fs, dir, &files)
}

/// The number of parameters in tensors, and the bytes of all. Old versions of transformers saved positions,
/// which are integers, beside them.
fn size<'t>(tensors: impl IntoIterator<Item = (Dtype, &'t [usize], usize)>) -> (usize, u64) {
    tensors.into_iter().fold((0, 0), |(n, bytes), (dtype, shape, len)| {
        let own = if dtype == Dtype::I64 { 0 } else { shape.iter().product::<usize>() };
        (n + own, bytes + len as u64)
    })
}

/// The model that is made smaller.
struct Source<'a> {
    dir: &'a Path,
    config: Value,
    architecture: &'static Architecture,
    encoder: EncoderConfig,
    files: Weights,
    cuts: Vec<LayerCut>,
    reduced: Option<Reduced>,
    texts: Vec<&'a str>,
}

/// The smaller model.
struct Small<'w> {
    config: Value,
    tensors: Vec<TensorOut<'w>>,
    layers: Vec<LayerShape>,
    /// Whether transformers can hold its layers.
    stock: bool,
}

/// What becomes of the stock form.
enum Stock {
    None(StockForm),
    Folder(StockForm, Value, Vec<TensorOut<'static>>),
}

impl<'a> Source<'a> {
    fn read(dir: &'a Path, options: &'a ShrinkOptions) -> Result<Source<'a>> {
        let (config, architecture, encoder) = resizable(dir)?;
        if let Some(layers) = &options.layers {
            check_layers(dir, layers, "--layers")?;
        }
        let files = Weights::open(dir)?;
        let chosen = options.layers.clone().unwrap_or_else(|| (0..encoder.layers.len()).collect());
        let survey =
            |&i: &usize| weights::survey(&files, architecture, i, encoder.layers[i]).map_err(|e| e.at(dir));
        let cuts = chosen.iter().map(survey).collect::<Result<Vec<_>>>()?;
        let corpus: Option<Vec<&str>> =
            options.corpus.as_ref().map(|texts| texts.iter().map(String::as_str).collect());
        let reduced = match &corpus {
            Some(texts) => vocabulary::reduce(dir, &config, &encoder, texts)?,
            None => None,
        };
        let kept = |(i, cut): (usize, &LayerCut)| cut.layer == i && cut.after() == cut.before;
        let whole = cuts.len() == encoder.layers.len() && cuts.iter().enumerate().all(kept);
        if whole && reduced.is_none() {
            return Err(Error::usage("there is nothing to remove from the model")
                .at(dir)
                .with_expected(
                    "attention heads or feed-forward rows whose weights are zero, as structured pruning leaves them",
                )
                .with_found(match corpus {
                    Some(_) => "no such head or row, and texts that need the whole vocabulary".to_owned(),
                    None => format!("{} layers in which every head and every row counts", cuts.len()),
                })
                .with_help("prune the model first, choose layers with --layers or --drop-layers, or cut the vocabulary with --vocab-from"));
        }
        let texts = texts_of(options);
        Ok(Source { dir, config, architecture, encoder, files, cuts, reduced, texts })
    }

    fn small(&self) -> Result<Small<'_>> {
        let kept = self.reduced.as_ref().map(|r| r.kept.iter().map(|&id| id as usize).collect::<Vec<_>>());
        let tensors = weights::cut(&self.files, self.architecture, &self.cuts, kept.as_deref())
            .map_err(|e| e.at(self.dir))?;
        let layers: Vec<LayerShape> = self.cuts.iter().map(LayerCut::after).collect();
        let mut config = self.config.clone();
        self.reduced.iter().for_each(|reduced| vocabulary::describe(&mut config, reduced));
        let stock = resize(&mut config, self.architecture, self.encoder.hidden, &layers);
        Ok(Small { config, tensors, layers, stock })
    }

    /// The files that are not weights or config, with those of the smaller tokenizer.
    fn others(&self) -> Result<Vec<NamedFile<'static>>> {
        let Some(reduced) = &self.reduced else { return folder::others(self.dir, |_| false) };
        let own = |name: &str| {
            reduced.files.iter().any(|(own, _)| own == name) || reduced.left_out.iter().any(|own| own == name)
        };
        let mut others = folder::others(self.dir, own)?;
        let new = reduced.files.iter().map(|(name, bytes)| NamedFile::bytes(name.clone(), bytes.clone()));
        others.extend(new);
        Ok(others)
    }

    fn report(
        &self,
        small: &Small,
        (proof, stock_proof): (Proof, Option<Proof>),
        stock: StockForm,
    ) -> Shrunk {
        let all = self.files.names().filter_map(|name| self.files.get(name));
        let before = size(all.map(|view| (view.dtype, view.shape, view.bytes.len())));
        let after = size(small.tensors.iter().map(|t| (t.dtype, t.shape.as_slice(), t.bytes.len())));
        let layers = self.cuts.iter().map(|cut| ShrunkLayer {
            layer: cut.layer,
            heads: [cut.before.heads, cut.heads.len()],
            rows: [cut.before.intermediate, cut.rows.len()],
        });
        let stays = |layer: &usize| self.cuts.iter().any(|cut| cut.layer == *layer);
        Shrunk {
            layers: layers.collect(),
            influence: Vec::new(),
            removed_layers: (0..self.encoder.layers.len()).filter(|layer| !stays(layer)).collect(),
            vocabulary: [
                self.encoder.vocab,
                self.reduced.as_ref().map_or(self.encoder.vocab, |r| r.kept.len()),
            ],
            left_out: self.reduced.iter().flat_map(|r| r.left_out.clone()).collect(),
            parameters: [before.0, after.0],
            bytes: [before.1, after.1],
            stock,
            proof,
            stock_proof,
        }
    }
}

impl Small<'_> {
    /// The stock form, unless the folder has it already or it would be no smaller than the original.
    fn stock(&self, source: &Source, options: &ShrinkOptions) -> Result<Stock> {
        let none = |why: &str| Ok(Stock::None(StockForm::None { why: why.to_owned() }));
        if self.stock {
            return Ok(Stock::None(StockForm::Same));
        }
        if options.no_stock {
            return none("it was not asked for");
        }
        if source.encoder.performer.is_some() {
            return none("transformers does not compute approximate attention");
        }
        let hidden = source.encoder.hidden;
        let Some(shape) = stock::shape(&self.layers, hidden) else {
            return none("no number of heads divides the hidden size and holds the widest head");
        };
        let most = |of: fn(&LayerShape) -> usize| source.encoder.layers.iter().map(of).max().unwrap_or(0);
        let whole = shape.heads >= most(|l| l.heads) && shape.intermediate >= most(|l| l.intermediate);
        let all = self.layers.len() == source.encoder.layers.len() && source.reduced.is_none();
        if whole && all {
            return none(
                "transformers needs the same number of heads, which divides the hidden size, and of rows in every layer, and no smaller numbers hold what is left; the original folder is that form",
            );
        }
        let tensors = stock::form(&self.tensors, source.architecture, &self.layers, hidden, shape)?;
        let mut config = self.config.clone();
        resize(&mut config, source.architecture, hidden, &vec![shape; self.layers.len()]);
        if let Some(map) =
            config.as_object_mut().filter(|_| self.tensors.iter().any(|t| t.dtype != Dtype::F32))
        {
            map.remove("torch_dtype");
            map.insert("dtype".into(), "float32".into());
        }
        let (parameters, bytes) = size(tensors.iter().map(|t| (t.dtype, t.shape.as_slice(), t.bytes.len())));
        let (heads, intermediate) = (shape.heads, shape.intermediate);
        Ok(Stock::Folder(StockForm::Written { heads, intermediate, parameters, bytes }, config, tensors))
    }
}
