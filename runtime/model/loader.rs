//! Opening a model: path to file, file to mapping, mapping to validated weights.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use rayon::{ThreadBuilder, ThreadPoolBuilder};

use super::error::{InvalidModel, ModelError};
use super::gguf::{Encoding, Gguf, TensorInfo};
use super::packed::has_code_3;
use super::zeros::{DOWN, UP};
use super::{Bytes, Config, Dense, DenseType, Layer, MapOptions, Mapping, Model, Ternary, Zeros};

/// A GGUF file, its header parsed: enough for its tokenizer, not yet a model.
pub struct GgufFile {
    /// The file, also when a directory was given.
    pub path: PathBuf,
    /// Its bytes.
    pub mapping: Arc<Mapping>,
    /// Metadata and tensor directory.
    pub gguf: Gguf,
}

impl GgufFile {
    /// Opens and parses the file at `path`: a GGUF file, or a directory that holds exactly one.
    pub fn open(path: &Path, options: MapOptions) -> Result<GgufFile, ModelError> {
        let path = find_model(path)?;
        let mapping = Arc::new(Mapping::open(&path, options).map_err(|error| unreadable(&path, error))?);
        match Gguf::parse(Bytes::whole(mapping.clone())) {
            Ok(gguf) => Ok(GgufFile { path, mapping, gguf }),
            Err(error) => Err(ModelError::Invalid {
                path,
                reason: error.into(),
            }),
        }
    }

    /// The model in the file.
    pub fn model(&self) -> Result<Model, InvalidModel> {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        Model::from_gguf(&self.gguf, self.mapping.clone(), &stem)
    }

    /// The file with what [`GgufFile::model`] made of it.
    pub fn with_model(self, model: Result<Model, InvalidModel>) -> Result<Opened, ModelError> {
        let GgufFile { path, gguf, .. } = self;
        match model {
            Ok(model) => Ok(Opened { path, gguf, model }),
            Err(reason) => Err(ModelError::Invalid { path, reason }),
        }
    }
}

/// An opened model: the weights, and the header they came with (tokenizer and chat template are read from it).
pub struct Opened {
    /// The file, also when a directory was given.
    pub path: PathBuf,
    /// Metadata and tensor directory.
    pub gguf: Gguf,
    /// The weights.
    pub model: Model,
}

impl Model {
    /// Opens the model at `path`: a GGUF file, or a directory that holds exactly one.
    ///
    /// Checks everything that the header says and every scale and norm weight, but does not read the matrices: a
    /// file of gigabytes opens in milliseconds. [`Model::validate_codes`] reads those, when there is time.
    pub fn open(path: &Path, options: MapOptions) -> Result<Opened, ModelError> {
        let file = GgufFile::open(path, options)?;
        let model = file.model();
        file.with_model(model)
    }

    /// The model that `gguf`, parsed from `mapping`, describes; `stem` names it when its metadata does not.
    pub fn from_gguf(gguf: &Gguf, mapping: Arc<Mapping>, stem: &str) -> Result<Model, InvalidModel> {
        let config = Config::from_gguf(gguf, stem)?;
        Weights::new(gguf, &config).model(config.clone(), mapping)
    }

    /// Checks that every ternary weight is one: the code 3 must not occur. Reads all matrices, on this thread.
    ///
    /// For a time when nobody waits: kernels count code 3 as +2, so an invalid file gives wrong words until this has
    /// run, and nothing worse.
    pub fn validate_codes(&self) -> Result<(), InvalidModel> {
        self.layers.iter().enumerate().try_for_each(validate_layer)
    }

    /// The same on as many threads as there are CPUs, for somebody who waits.
    pub fn validate_codes_now(&self) -> Result<(), InvalidModel> {
        self.validate_codes_on(ThreadPoolBuilder::new())
    }

    /// On threads that end with this, or on this one where the system refuses them (which rayon's global pool panics for).
    fn validate_codes_on(&self, threads: ThreadPoolBuilder) -> Result<(), InvalidModel> {
        let validate = || self.layers.par_iter().enumerate().try_for_each(validate_layer);
        threads
            .build_scoped(ThreadBuilder::run, |pool| pool.install(validate))
            .unwrap_or_else(|_| self.validate_codes())
    }
}

fn validate_layer((index, layer): (usize, &Layer)) -> Result<(), InvalidModel> {
    match layer
        .matrices()
        .into_iter()
        .find(|(_, matrix)| has_code_3(&matrix.packed))
    {
        Some((name, _)) => Err(InvalidModel::NotTernary(format!("blk.{index}.{name}.weight"))),
        None => Ok(()),
    }
}

/// The file that `path` means.
fn find_model(path: &Path) -> Result<PathBuf, ModelError> {
    let meta = std::fs::metadata(path).map_err(|error| unreadable(path, error))?;
    if !meta.is_dir() {
        return Ok(path.to_owned());
    }
    let mut models = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| unreadable(path, error))? {
        let file = entry.map_err(|error| unreadable(path, error))?.path();
        if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && file.is_file() {
            models.push(file);
        }
    }
    models.sort();
    let path = path.to_owned();
    match models.as_slice() {
        [] => Err(ModelError::NoModel { path }),
        [model] => Ok(model.clone()),
        several => Err(ModelError::SeveralModels {
            path,
            names: several
                .iter()
                .map(|m| m.file_name().unwrap_or_default().to_string_lossy().into_owned())
                .collect(),
        }),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> ModelError {
    let path = path.to_owned();
    match error.kind() {
        std::io::ErrorKind::NotFound => ModelError::NotFound { path },
        _ => ModelError::Unreadable { path, error },
    }
}

/// Takes tensors out of the directory by name, checking each against the graph.
struct Weights<'a> {
    gguf: &'a Gguf,
    config: &'a Config,
    taken: HashSet<String>,
}

impl<'a> Weights<'a> {
    fn new(gguf: &'a Gguf, config: &'a Config) -> Self {
        Weights {
            gguf,
            config,
            taken: HashSet::new(),
        }
    }

    fn model(mut self, config: Config, mapping: Arc<Mapping>) -> Result<Model, InvalidModel> {
        let embedding = self.dense("token_embd.weight", config.vocab, config.hidden)?;
        let output_norm = self.norm("output_norm.weight".to_owned(), config.hidden)?;
        let layers = (0..config.layers)
            .map(|i| self.layer(i))
            .collect::<Result<Vec<_>, _>>()?;
        self.refuse_others()?;
        Ok(Model {
            config,
            embedding,
            output_norm,
            layers,
            mapping,
            coarse: OnceLock::new(),
        })
    }

    fn layer(&mut self, index: usize) -> Result<Layer, InvalidModel> {
        let &Config {
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.config;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        Ok(Layer {
            attn_norm: self.norm(name("attn_norm"), hidden)?,
            attn_q: self.ternary(name("attn_q"), q, hidden)?,
            attn_k: self.ternary(name("attn_k"), kv, hidden)?,
            attn_v: self.ternary(name("attn_v"), kv, hidden)?,
            attn_sub_norm: self.norm(name("attn_sub_norm"), q)?,
            attn_output: self.ternary(name("attn_output"), hidden, q)?,
            ffn_norm: self.norm(name("ffn_norm"), hidden)?,
            ffn_gate: self.ternary(name("ffn_gate"), ffn, hidden)?,
            ffn_up: self.ternary(name("ffn_up"), ffn, hidden)?,
            ffn_sub_norm: self.norm(name("ffn_sub_norm"), ffn)?,
            ffn_down: self.ternary(name("ffn_down"), hidden, ffn)?,
            gates_closed: Zeros::new(UP),
            down_zeros: Zeros::new(DOWN),
        })
    }

    /// The tensor of that name and exactly that shape, with its bytes.
    fn take(&mut self, name: &str, expected: &[usize]) -> Result<(&'a TensorInfo, Option<Bytes>), InvalidModel> {
        let tensor = self
            .gguf
            .tensor(name)
            .ok_or_else(|| InvalidModel::MissingTensor(name.to_owned()))?;
        let expected: Vec<u64> = expected.iter().map(|&d| d as u64).collect();
        // Trailing dimensions of 1 are the same shape.
        let significant = tensor.dims.len() - tensor.dims.iter().rev().take_while(|&&d| d == 1).count();
        if tensor.dims[..significant.max(1)] != expected && tensor.dims != expected {
            return Err(InvalidModel::Shape {
                name: name.to_owned(),
                found: tensor.dims.clone(),
                expected,
            });
        }
        self.taken.insert(name.to_owned());
        Ok((tensor, self.gguf.data(tensor)))
    }

    fn norm(&mut self, name: String, len: usize) -> Result<Vec<f32>, InvalidModel> {
        let (tensor, data) = self.take(&name, &[len])?;
        let Some(data) = data.filter(|_| tensor.encoding == Encoding::F32) else {
            return Err(wrong_encoding(name, tensor));
        };
        let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(InvalidModel::NotFinite(name)),
        }
    }

    fn ternary(&mut self, name: String, rows: usize, cols: usize) -> Result<Ternary, InvalidModel> {
        let (tensor, data) = self.take(&name, &[cols, rows])?;
        let Some(data) = data.filter(|_| tensor.encoding == Encoding::I2_S) else {
            return Err(wrong_encoding(name, tensor));
        };
        let codes = rows * cols / 4;
        let (Some(packed), Some(scale)) = (data.slice(0..codes), data.get(codes..codes + 4)) else {
            unreachable!("an I2_S tensor has n / 4 + 32 bytes");
        };
        let scale = f32::from_le_bytes(scale.try_into().expect("4 bytes"));
        if !scale.is_finite() {
            return Err(InvalidModel::NotFinite(name));
        }
        Ok(Ternary::new(packed, rows, cols, scale))
    }

    fn dense(&mut self, name: &str, rows: usize, cols: usize) -> Result<Dense, InvalidModel> {
        let (tensor, data) = self.take(name, &[cols, rows])?;
        let kind = match tensor.encoding {
            Encoding::F32 => Some(DenseType::F32),
            Encoding::F16 => Some(DenseType::F16),
            Encoding::Q8_0 => Some(DenseType::Q8_0),
            Encoding::Q6_K => Some(DenseType::Q6K),
            _ => None,
        };
        match (kind, data) {
            (Some(kind), Some(data)) => Ok(Dense { data, kind, rows, cols }),
            _ => Err(wrong_encoding(name.to_owned(), tensor)),
        }
    }

    /// Whatever the graph did not take: ignoring a weight would compute something else than the file means.
    fn refuse_others(&self) -> Result<(), InvalidModel> {
        for tensor in self.gguf.tensors() {
            match tensor.name.as_str() {
                name if self.taken.contains(name) => {}
                // Some conversions add a separate head; bitnet.cpp ignores it for this graph, and so do its goldens.
                "output.weight" => tracing::warn!("ignoring output.weight: this graph's head is token_embd.weight"),
                name => {
                    return Err(InvalidModel::UnexpectedTensor {
                        name: name.to_owned(),
                        architecture: self.config.architecture_name.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn wrong_encoding(name: String, tensor: &TensorInfo) -> InvalidModel {
    InvalidModel::Encoding {
        name,
        found: tensor.encoding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::small_model;

    const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/nano-i2_s.gguf");

    #[test]
    fn the_nano_model_opens() {
        for mmap in [true, false] {
            let options = MapOptions { mmap, mlock: false };
            let Opened { model, gguf, .. } = Model::open(Path::new(NANO), options).unwrap();
            let c = &model.config;
            assert_eq!(
                (c.layers, c.hidden, c.ffn, c.heads, c.kv_heads, c.head_dim),
                (2, 256, 512, 2, 1, 128)
            );
            assert_eq!((c.vocab, c.context, c.rope_base), (1280, 512, 500_000.0));
            assert_eq!(
                (model.embedding.kind, model.embedding.data.len()),
                (DenseType::F16, 2 * 1280 * 256)
            );
            assert_eq!(model.layers[1].ffn_down.packed.len(), 256 * 512 / 4);
            assert!(model.layers[1].ffn_down.scale > 0.0);
            assert_eq!(gguf.get::<&str>("tokenizer.ggml.pre"), Ok(Some("llama-bpe")));
            assert_eq!(model.validate_codes(), Ok(()));
        }
    }

    #[test]
    fn codes_are_validated_with_threads_and_without() {
        // No address space is large enough for such stacks.
        let refused = || ThreadPoolBuilder::new().num_threads(2).stack_size(1 << 60);
        assert!(refused().build().is_err());
        let mut writer = small_model();
        for valid in [true, false] {
            let (model, _) = writer.load().unwrap();
            for found in [model.validate_codes_now(), model.validate_codes_on(refused())] {
                assert_eq!(found, model.validate_codes());
                assert_eq!(found.is_ok(), valid);
            }
            writer.tensor("blk.0.ffn_down.weight").data[7] = 0b00_11_00_00;
        }
    }
}
