//! The model as the engine sees it: configuration, and weights that point into the mapped file.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use super::{CoarseHead, HugeBuffer, Mapping, Packed, Part, Zeros};

/// What immutable bytes can belong to.
pub trait Owner: AsRef<[u8]> + Send + Sync {
    /// Copies the bytes from `at` on into `out`. A mapped file reads them instead, so that its pages, and 16 around each, do not
    /// come to lie in this process's memory for a few bytes.
    fn read(&self, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.as_ref()[at..at + out.len()]);
    }
}

impl Owner for Vec<u8> {}
impl Owner for HugeBuffer {}
impl Owner for Part {}

/// A range of immutable bytes whose owner is kept alive: usually the mapped model file.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of `owner`; `None` when they are not all inside.
    pub fn new(owner: Arc<dyn Owner>, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(Bytes { owner, range })
    }

    /// All bytes of `owner`.
    pub fn whole(owner: Arc<dyn Owner>) -> Self {
        let range = 0..(*owner).as_ref().len();
        Bytes { owner, range }
    }

    /// A part of these bytes, with the same owner; `None` when it is not all inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Bytes {
            owner: self.owner.clone(),
            range: start..end,
        })
    }

    /// Copies the bytes from `at` on, all inside, into `out`: for few of many, see [`Owner::read`].
    pub fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at <= self.range.len() && out.len() <= self.range.len() - at);
        self.owner.read(self.range.start + at, out);
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

/// Which graph the weights belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `bitnet-b1.58`, and `bitnet-25`, the same graph under an older name: squared ReLU, sub-norms,
    /// GQA, NeoX RoPE, the embedding as output head.
    BitnetB158,
}

/// Everything about the graph that is not a weight. Checked when loaded: `heads % kv_heads == 0`, sizes nonzero.
#[derive(Debug, Clone)]
pub struct Config {
    /// The graph.
    pub architecture: Architecture,
    /// `general.architecture` as the file says it.
    pub architecture_name: String,
    /// `general.name`, or the file's stem.
    pub name: String,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward's inner vector.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Vocabulary size: rows of the embedding.
    pub vocab: usize,
    /// Longest sequence the model was trained for, in tokens.
    pub context: usize,
    /// RMSNorm epsilon.
    pub rms_eps: f32,
    /// RoPE base frequency.
    pub rope_base: f32,
}

/// A ternary matrix in the I2_S layout of x86 writers, as mapped. W (rows, cols), `cols % 128 == 0`.
pub struct Ternary {
    /// `rows * cols / 4` bytes; row r starts at byte `r * cols / 4`. Each 32 bytes hold 128 consecutive
    /// weights: element j is in byte `j % 32` at shift `6 - 2 * (j / 32)`; code 0, 1, 2 = -1, 0, +1.
    pub packed: Bytes,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The tensor's scale: w = scale * (code - 1).
    pub scale: f32,
    repacked: ArcSwapOption<Packed>,
}

impl Ternary {
    /// A matrix as its file holds it.
    pub fn new(packed: Bytes, rows: usize, cols: usize, scale: f32) -> Self {
        Ternary {
            packed,
            rows,
            cols,
            scale,
            repacked: ArcSwapOption::empty(),
        }
    }

    /// The same weights in a kernel's own layout, from some moment on, and perhaps in another one later. Results do not depend on it. Takes
    /// nanoseconds and never waits; what comes back is there for as long as it is held.
    pub fn repacked(&self) -> Option<Arc<Packed>> {
        self.repacked.load_full()
    }

    /// Takes the place of what [`Ternary::repacked`] was, for all products that begin from now on.
    pub fn set_repacked(&self, packed: Packed) {
        self.repacked.store(Some(Arc::new(packed)));
    }
}

impl Clone for Ternary {
    fn clone(&self) -> Self {
        Ternary {
            repacked: self.repacked().into(),
            ..Ternary::new(self.packed.clone(), self.rows, self.cols, self.scale)
        }
    }
}

/// How a dense matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Blocks of 32: f16 scale, 32 x i8.
    Q8_0,
    /// Blocks of 256: 6-bit codes, 16 x i8 sub-scales, f16 scale.
    Q6K,
}

impl DenseType {
    /// Bytes of a row of `cols` weights; `cols` is whole blocks.
    pub fn row_bytes(self, cols: usize) -> usize {
        match self {
            DenseType::F32 => cols * 4,
            DenseType::F16 => cols * 2,
            DenseType::Q8_0 => cols / 32 * 34,
            DenseType::Q6K => cols / 256 * 210,
        }
    }

    /// Alignment of its elements in bytes; tensors of a valid file are aligned to at least 8.
    pub fn alignment(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 => 2,
            DenseType::Q8_0 | DenseType::Q6K => 1,
        }
    }
}

/// A dense matrix (embedding, output head), as mapped. W (rows, cols).
#[derive(Clone)]
pub struct Dense {
    /// Row-major; a row is whole blocks of `kind`.
    pub data: Bytes,
    /// Storage type.
    pub kind: DenseType,
    /// Rows: vocabulary.
    pub rows: usize,
    /// Columns: hidden.
    pub cols: usize,
}

impl Dense {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.kind.row_bytes(self.cols)
    }

    /// Copies a row into `out` (its bytes), see [`Owner::read`].
    pub fn read_row(&self, row: usize, out: &mut [u8]) {
        assert!(row < self.rows && out.len() == self.row_bytes());
        self.data.read(row * out.len(), out);
    }
}

/// The weights of one transformer block. Shapes as (rows, cols) = (output features, input features).
pub struct Layer {
    /// (hidden)
    pub attn_norm: Vec<f32>,
    /// (heads * head_dim, hidden)
    pub attn_q: Ternary,
    /// (kv_heads * head_dim, hidden)
    pub attn_k: Ternary,
    /// (kv_heads * head_dim, hidden)
    pub attn_v: Ternary,
    /// (heads * head_dim)
    pub attn_sub_norm: Vec<f32>,
    /// (hidden, heads * head_dim)
    pub attn_output: Ternary,
    /// (hidden)
    pub ffn_norm: Vec<f32>,
    /// (ffn, hidden)
    pub ffn_gate: Ternary,
    /// (ffn, hidden)
    pub ffn_up: Ternary,
    /// (ffn)
    pub ffn_sub_norm: Vec<f32>,
    /// (hidden, ffn)
    pub ffn_down: Ternary,
    /// The gates that are closed, in what is generated.
    pub gates_closed: Zeros,
    /// Of the input of `ffn_down`, likewise.
    pub down_zeros: Zeros,
}

impl Layer {
    /// The ternary matrices with their names in the file, `attn_q` for `blk.N.attn_q.weight`.
    pub fn matrices(&self) -> [(&'static str, &Ternary); 7] {
        [
            ("attn_q", &self.attn_q),
            ("attn_k", &self.attn_k),
            ("attn_v", &self.attn_v),
            ("attn_output", &self.attn_output),
            ("ffn_gate", &self.ffn_gate),
            ("ffn_up", &self.ffn_up),
            ("ffn_down", &self.ffn_down),
        ]
    }
}

/// A validated model.
pub struct Model {
    /// The graph's numbers.
    pub config: Config,
    /// Token embedding, and the output head (tied). (vocab, hidden)
    pub embedding: Dense,
    /// (hidden)
    pub output_norm: Vec<f32>,
    /// Transformer blocks, first to last.
    pub layers: Vec<Layer>,
    /// The file that the weights point into; ask [`Mapping::lost`] after every forward pass.
    pub mapping: Arc<Mapping>,
    /// Int8 codes of the output head, from some moment on. No token depends on them.
    pub coarse: OnceLock<CoarseHead>,
}
