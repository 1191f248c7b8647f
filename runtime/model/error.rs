//! Why a model cannot be opened.

use std::path::PathBuf;

use super::gguf::{Encoding, GgufError};

/// Why [`Model::open`](super::Model::open) failed.
///
/// [`ModelError::Invalid`] is a bad file (sysexits `EX_DATAERR`, 65); everything else is a model that is not there or
/// cannot be read (`EX_NOINPUT`, 66), which waiting may cure.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Nothing at the path.
    #[error("{} does not exist: mount a .gguf model there, or give another path", .path.display())]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The system does not let us read it.
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A directory without a model.
    #[error("no .gguf file in the directory {}: put a model there, or give the path of one", .path.display())]
    NoModel {
        /// The directory.
        path: PathBuf,
    },
    /// A directory with more than one model.
    #[error("{} .gguf files in the directory {}: give the path of one of them: {}", .names.len(), .path.display(), .names.join(", "))]
    SeveralModels {
        /// The directory.
        path: PathBuf,
        /// The files' names, sorted.
        names: Vec<String>,
    },
    /// The file is not a model that can be run.
    #[error("{}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: InvalidModel,
    },
}

/// What is wrong with a model file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidModel {
    /// The container.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A graph that the engine does not have.
    #[error("architecture {0:?} is not supported, only bitnet-b1.58 and bitnet-25")]
    Architecture(String),
    /// One of several files.
    #[error("the model is split into {0} files, which is not supported: merge them with llama-gguf-split --merge")]
    Split(u32),
    /// A number of the graph outside what makes sense.
    #[error("{key} is {found}, it must be {expected}")]
    Value {
        /// The metadata key.
        key: String,
        /// The file's value.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A property of the graph that the engine does not compute.
    #[error("{key} is {found}: {what} is not supported")]
    Feature {
        /// The metadata key.
        key: String,
        /// The file's value.
        found: String,
        /// The feature.
        what: &'static str,
    },
    /// A weight that is not there.
    #[error("tensor {0} is missing: the file is not a complete model")]
    MissingTensor(String),
    /// A weight that the graph has no place for.
    #[error("tensor {name} is not part of the {architecture} graph: biases, scales and rope factors are not supported")]
    UnexpectedTensor {
        /// The tensor.
        name: String,
        /// The graph.
        architecture: String,
    },
    /// A weight of the wrong shape.
    #[error("tensor {name} has the shape {found:?}, it must be {expected:?} (input features first)")]
    Shape {
        /// The tensor.
        name: String,
        /// The file's dimensions.
        found: Vec<u64>,
        /// The graph's dimensions.
        expected: Vec<u64>,
    },
    /// A weight stored in a way that the engine cannot compute with.
    #[error("tensor {name} is stored as {found}, supported are {}", Encoding::SUPPORTED)]
    Encoding {
        /// The tensor.
        name: String,
        /// Its encoding.
        found: Encoding,
    },
    /// A scale or norm weight that is infinite or not a number.
    #[error("tensor {0} holds a value that is not finite: the file is damaged")]
    NotFinite(String),
    /// An I2_S weight with the code 3, which no writer produces.
    #[error("tensor {0} holds codes that are not ternary: the file is damaged")]
    NotTernary(String),
}
