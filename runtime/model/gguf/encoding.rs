//! Tensor encodings: the type ids of ggml and its forks, with names and sizes.

/// How a tensor's elements are stored, as the file numbers it.
///
/// Every id has a name here so that an error can say what a file holds; few can be computed with, see
/// [`Encoding::SUPPORTED`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding {
    id: u32,
    /// Id 39 means TL2 in files for bitnet.cpp and MXFP4 in files for llama.cpp.
    bitnet: bool,
}

/// How many bytes elements take.
enum Size {
    /// Every `elements` of a row take `bytes`.
    Blocks { elements: u64, bytes: u64 },
    /// Two bits an element, then one f32 scale for the tensor, padded to 32 bytes.
    Ternary,
    /// Not known here.
    Unknown,
}

impl Encoding {
    /// IEEE single precision.
    pub const F32: Encoding = Encoding::plain(0);
    /// IEEE half precision.
    pub const F16: Encoding = Encoding::plain(1);
    /// Blocks of 32: f16 scale, 32 x i8.
    pub const Q8_0: Encoding = Encoding::plain(8);
    /// Blocks of 256: 6-bit codes, 16 x i8 sub-scales, f16 scale.
    pub const Q6_K: Encoding = Encoding::plain(14);
    /// Ternary, two bits an element, one scale a tensor.
    pub const I2_S: Encoding = Encoding::plain(36);

    /// What the engine computes with, for error messages.
    pub const SUPPORTED: &'static str =
        "I2_S for ternary matrices, F16, F32, Q8_0 or Q6_K for the embedding, F32 for norms";

    const fn plain(id: u32) -> Encoding {
        Encoding { id, bitnet: false }
    }

    /// The encoding that `id` means in a file; `bitnet`: the file is one of bitnet.cpp's.
    pub(super) fn from_id(id: u32, bitnet: bool) -> Encoding {
        Encoding {
            id,
            bitnet: bitnet && id == 39,
        }
    }

    /// The id as the file has it.
    pub fn id(self) -> u32 {
        self.id
    }

    /// (name, size) of this id. Sizes as ggml's block table has them.
    fn row(self) -> (&'static str, Size) {
        const fn blocks(elements: u64, bytes: u64) -> Size {
            Size::Blocks { elements, bytes }
        }
        match self.id {
            0 => ("F32", blocks(1, 4)),
            1 => ("F16", blocks(1, 2)),
            2 => ("Q4_0", blocks(32, 18)),
            3 => ("Q4_1", blocks(32, 20)),
            6 => ("Q5_0", blocks(32, 22)),
            7 => ("Q5_1", blocks(32, 24)),
            8 => ("Q8_0", blocks(32, 34)),
            9 => ("Q8_1", blocks(32, 36)),
            10 => ("Q2_K", blocks(256, 84)),
            11 => ("Q3_K", blocks(256, 110)),
            12 => ("Q4_K", blocks(256, 144)),
            13 => ("Q5_K", blocks(256, 176)),
            14 => ("Q6_K", blocks(256, 210)),
            15 => ("Q8_K", blocks(256, 292)),
            16 => ("IQ2_XXS", blocks(256, 66)),
            17 => ("IQ2_XS", blocks(256, 74)),
            18 => ("IQ3_XXS", blocks(256, 98)),
            19 => ("IQ1_S", blocks(256, 50)),
            20 => ("IQ4_NL", blocks(32, 18)),
            21 => ("IQ3_S", blocks(256, 110)),
            22 => ("IQ2_S", blocks(256, 82)),
            23 => ("IQ4_XS", blocks(256, 136)),
            24 => ("I8", blocks(1, 1)),
            25 => ("I16", blocks(1, 2)),
            26 => ("I32", blocks(1, 4)),
            27 => ("I64", blocks(1, 8)),
            28 => ("F64", blocks(1, 8)),
            29 => ("IQ1_M", blocks(256, 56)),
            30 => ("BF16", blocks(1, 2)),
            31 => ("Q4_0_4_4", blocks(32, 18)),
            32 => ("Q4_0_4_8", blocks(32, 18)),
            33 => ("Q4_0_8_8", blocks(32, 18)),
            34 => ("TQ1_0", blocks(256, 54)),
            35 => ("TQ2_0", blocks(256, 66)),
            // 36 to 38 had other meanings in llama.cpp for a few weeks of 2024, in files nobody kept.
            36 => ("I2_S", Size::Ternary),
            37 => ("I8_S", Size::Unknown),
            38 => ("TL1", Size::Unknown),
            39 if self.bitnet => ("TL2", Size::Unknown),
            39 => ("MXFP4", blocks(32, 17)),
            134 => ("IQ1_BN", Size::Unknown),
            135 => ("IQ2_BN", Size::Unknown),
            335 => ("IQ2_BN_R4", Size::Unknown),
            _ => ("unknown", Size::Unknown),
        }
    }

    /// Elements that a row must be a multiple of.
    pub(super) fn block(self) -> u64 {
        match self.row().1 {
            Size::Blocks { elements, .. } => elements,
            Size::Ternary => 4,
            Size::Unknown => 1,
        }
    }

    /// Bytes of a tensor of `elements`, whole blocks, saturating; `None` when the encoding's size is not known here.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        match self.row().1 {
            Size::Blocks { elements: e, bytes } => Some((elements / e).saturating_mul(bytes)),
            Size::Ternary => Some((elements / 4).saturating_add(32)),
            Size::Unknown => None,
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.row().0 {
            "unknown" => write!(f, "type {}", self.id),
            name => f.write_str(name),
        }
    }
}

impl std::fmt::Debug for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(Encoding::F16.bytes(256), Some(512));
        assert_eq!(Encoding::Q8_0.bytes(64), Some(68));
        assert_eq!(Encoding::Q6_K.bytes(512), Some(420));
        assert_eq!(Encoding::I2_S.bytes(256), Some(96));
        assert_eq!(Encoding::F32.bytes(u64::MAX), Some(u64::MAX));
        assert_eq!(Encoding::from_id(135, false).bytes(64), None);
    }

    #[test]
    fn type_39_depends_on_the_file() {
        assert_eq!(Encoding::from_id(39, true).to_string(), "TL2");
        assert_eq!(Encoding::from_id(39, false).to_string(), "MXFP4");
        assert_eq!(Encoding::from_id(36, true), Encoding::I2_S);
        assert_eq!(Encoding::from_id(1000, true).to_string(), "type 1000");
    }
}
