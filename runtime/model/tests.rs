//! The loader against files that are not what they should be: always an error or a model, never a panic.

use std::path::Path;

use proptest::prelude::*;

use super::gguf::{Encoding, GgufError};
use super::testing::{V, Writer, load, small_model};
use super::{InvalidModel, MapOptions, Model, ModelError};
use crate::text::{ChatTemplate, Message, Tokenizer};

/// Loads all there is in a file, and uses it a little.
fn exercise(bytes: &[u8]) {
    let Ok((model, gguf)) = load(bytes) else { return };
    let _ = model.validate_codes();
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf, None) else {
        return;
    };
    for id in tokenizer.encode("<|eot_id|> a\u{e9} 12\n", true, true) {
        assert!((id as usize) < model.config.vocab);
        tokenizer.token_bytes(id, true);
    }
    if let Ok(template) = ChatTemplate::from_gguf(&gguf, &tokenizer, None) {
        let message = Message {
            role: "user".to_owned(),
            content: "x".to_owned(),
        };
        let _ = template.render(&[message], true);
    }
}

fn error(change: impl FnOnce(&mut Writer)) -> InvalidModel {
    let mut writer = small_model();
    change(&mut writer);
    writer.load().err().expect("the change makes the file invalid")
}

fn gguf_error(change: impl FnOnce(&mut Writer)) -> GgufError {
    match error(change) {
        InvalidModel::Gguf(error) => error,
        other => panic!("not an error of the container: {other}"),
    }
}

#[test]
fn the_small_model_is_valid() {
    let (model, gguf) = small_model().load().unwrap();
    assert_eq!(
        (model.config.kv_heads, model.config.rope_base, &*model.config.name),
        (2, 10_000.0, "test")
    );
    assert_eq!(model.validate_codes(), Ok(()));
    let tokenizer = Tokenizer::from_gguf(&gguf, None).unwrap();
    assert_eq!(tokenizer.encode("a a<|eot_id|>", true, true), [257, 97, 256, 258]);
}

#[test]
fn every_truncation_is_an_error() {
    let (file, header) = small_model().build();
    for len in (0..header)
        .chain((header..file.len()).step_by(997))
        .chain([file.len() - 1])
    {
        assert!(load(&file[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn every_changed_byte_of_the_header_is_an_error_or_a_model() {
    let (mut file, header) = small_model().build();
    for at in 0..header {
        let byte = file[at];
        for changed in [byte ^ 1, byte ^ 0x80, 0xff] {
            file[at] = changed;
            exercise(&file);
        }
        file[at] = byte;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_number_anywhere_is_an_error_or_a_model(
        at in any::<prop::sample::Index>(),
        number in prop_oneof![any::<u64>(), Just(u64::MAX), Just(1 << 63), Just(u64::from(u32::MAX)), 0u64..1000],
        wide in any::<bool>(),
    ) {
        let (mut file, header) = small_model().build();
        let len = if wide { 8 } else { 4 };
        let at = at.index(header - len);
        file[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
        exercise(&file);
    }

    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(load(&bytes).is_err());
        prop_assert!(load(&[b"GGUF\x03\0\0\0".as_slice(), &bytes].concat()).is_err());
    }
}

#[test]
fn not_gguf() {
    assert!(matches!(load(b""), Err(InvalidModel::Gguf(GgufError::NotGguf { .. }))));
    assert!(
        matches!(load(b"<!DOCTYPE html>"), Err(InvalidModel::Gguf(GgufError::NotGguf { found })) if found == b"<!DO")
    );
    assert_eq!(gguf_error(|w| w.version = 1), GgufError::Version(1));
    assert_eq!(gguf_error(|w| w.version = 3 << 24), GgufError::BigEndian);
}

#[test]
fn absurd_counts() {
    for counts in [(u64::MAX, 1), (1, u64::MAX), (1 << 17, 1), (1, 1 << 17)] {
        assert!(
            matches!(gguf_error(|w| w.counts = Some(counts)), GgufError::TooMany { .. }),
            "{counts:?}"
        );
    }
    for count in [u64::MAX, 1 << 60, 1 << 32] {
        for id in [0u32, 4, 8, 12] {
            let raw = [&id.to_le_bytes()[..], &count.to_le_bytes()].concat();
            assert!(
                matches!(
                    gguf_error(|w| {
                        w.set("x", V::Raw(9, raw));
                    }),
                    GgufError::Truncated { .. }
                ),
                "{count} x {id}"
            );
        }
    }
    let nested = [9u32.to_le_bytes().to_vec(), vec![0; 8]].concat();
    assert_eq!(
        gguf_error(|w| {
            w.set("x", V::Raw(9, nested));
        }),
        GgufError::NestedArray { key: "x".to_owned() }
    );
    assert!(matches!(
        gguf_error(|w| {
            w.set("x", V::Raw(13, vec![]));
        }),
        GgufError::UnknownValueType { id: 13, .. }
    ));
}

#[test]
fn names() {
    let first = small_model().keys[0].0.clone();
    assert_eq!(
        gguf_error(|w| w.keys[1].0 = first.clone()),
        GgufError::DuplicateKey(first.clone())
    );
    let name = "output_norm.weight";
    assert_eq!(
        gguf_error(|w| w.tensors[0].name = name.to_owned()),
        GgufError::DuplicateTensor(name.to_owned())
    );
    let not_utf8 = [1u64.to_le_bytes().to_vec(), vec![0xff]].concat();
    assert!(matches!(
        gguf_error(|w| {
            w.set("x", V::Raw(8, not_utf8));
        }),
        GgufError::NotUtf8 { .. }
    ));
}

#[test]
fn an_alignment_is_a_power_of_two_from_8_on() {
    let with = |alignment| small_model().set("general.alignment", V::U32(alignment)).load();
    for alignment in [0, 1, 2, 4, 24, 1 << 21] {
        let error = with(alignment).err().expect("not an alignment");
        assert_eq!(error, InvalidModel::Gguf(GgufError::Alignment(alignment)));
    }
    for alignment in [8, 16] {
        let refused = matches!(with(alignment), Err(InvalidModel::Gguf(GgufError::Alignment(_))));
        assert!(!refused, "{alignment}");
    }
}

#[test]
fn places_and_shapes() {
    const NAME: &str = "blk.0.attn_q.weight";
    type Change = fn(&mut Writer);
    type Is = fn(&GgufError) -> bool;
    let cases: [(Change, Is); 7] = [
        (
            |w| w.tensor(NAME).offset = Some(1),
            |e| matches!(e, GgufError::Misaligned { offset: 1, .. }),
        ),
        (
            |w| w.tensor(NAME).offset = Some(1 << 40),
            |e| matches!(e, GgufError::OutsideFile { .. }),
        ),
        (
            |w| w.tensor(NAME).offset = Some(u64::MAX - 31),
            |e| matches!(e, GgufError::OutsideFile { .. }),
        ),
        (
            |w| w.tensor(NAME).offset = Some(0),
            |e| matches!(e, GgufError::Overlap { .. }),
        ),
        (
            |w| w.tensor(NAME).dims = vec![1 << 32, 1 << 32],
            |e| matches!(e, GgufError::Shape { .. }),
        ),
        (
            |w| w.tensor(NAME).dims = vec![],
            |e| matches!(e, GgufError::Shape { .. }),
        ),
        (
            |w| w.tensor(NAME).dims = vec![1; 5],
            |e| matches!(e, GgufError::TooMany { found: 5, .. }),
        ),
    ];
    for (index, (change, is)) in cases.into_iter().enumerate() {
        let error = gguf_error(change);
        assert!(is(&error), "case {index}: {error}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_graph() {
    const NAME: &str = "blk.0.ffn_up.weight";
    let name = || NAME.to_owned();
    assert_eq!(
        error(|w| w.tensors.retain(|t| t.name != NAME)),
        InvalidModel::MissingTensor(name())
    );
    let shape = error(|w| w.tensor(NAME).dims = vec![64, 256]);
    assert_eq!(
        shape.to_string(),
        "tensor blk.0.ffn_up.weight has the shape [64, 256], it must be [128, 128] (input features first)"
    );
    let found = Encoding::F16;
    assert_eq!(
        error(|w| {
            let t = w.tensor(NAME);
            t.encoding = 1;
            t.data.resize(2 * 128 * 128, 0)
        }),
        InvalidModel::Encoding { name: name(), found }
    );
    let unknown = error(|w| w.tensor(NAME).encoding = 38).to_string();
    assert!(unknown.contains("TL1") && unknown.contains("I2_S"), "{unknown}");
    assert_eq!(
        error(|w| w.tensor(NAME).data[128 * 32..][..4].copy_from_slice(&f32::NAN.to_le_bytes())),
        InvalidModel::NotFinite(name())
    );
    assert_eq!(
        error(|w| w.tensor("output_norm.weight").data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes())),
        InvalidModel::NotFinite("output_norm.weight".to_owned())
    );
    for extra in ["blk.0.attn_q.bias", "rope_freqs.weight", "blk.1.attn_q.weight"] {
        let mut tensor = small_model().tensor(NAME).clone();
        tensor.name = extra.to_owned();
        assert!(
            matches!(error(|w| w.tensors.push(tensor)), InvalidModel::UnexpectedTensor { name, .. } if name == extra)
        );
    }
    let mut writer = small_model();
    let mut head = writer.tensors[0].clone();
    head.name = "output.weight".to_owned();
    writer.tensors.push(head);
    assert!(writer.load().is_ok(), "a separate head is ignored, as bitnet.cpp does");
}

#[test]
fn codes_that_are_not_ternary() {
    for at in [0, 7, 2000, 128 * 32 - 1] {
        let mut writer = small_model();
        writer.tensor("blk.0.ffn_down.weight").data[at] = 0b00_11_00_00;
        let (model, _) = writer.load().unwrap();
        assert_eq!(
            model.validate_codes(),
            Err(InvalidModel::NotTernary("blk.0.ffn_down.weight".to_owned())),
            "byte {at}"
        );
    }
}

#[test]
fn numbers_of_the_graph() {
    let set = |key: &'static str, value: V<'static>| {
        error(|w| {
            w.set(key, value);
        })
        .to_string()
    };
    for (key, value, message) in [
        (
            "general.architecture",
            V::Str("qwen2"),
            "architecture \"qwen2\" is not supported, only bitnet-b1.58 and bitnet-25",
        ),
        (
            "split.count",
            V::U32(3),
            "the model is split into 3 files, which is not supported: merge them with llama-gguf-split --merge",
        ),
        (
            "bitnet-b1.58.embedding_length",
            V::U32(120),
            "bitnet-b1.58.embedding_length is 120, it must be a multiple of 128",
        ),
        (
            "bitnet-b1.58.embedding_length",
            V::U32(1 << 20),
            "bitnet-b1.58.embedding_length is 1048576, it must be 1 to 65536",
        ),
        (
            "bitnet-b1.58.block_count",
            V::U32(0),
            "bitnet-b1.58.block_count is 0, it must be 1 to 1024",
        ),
        (
            "bitnet-b1.58.attention.head_count",
            V::U32(3),
            "bitnet-b1.58.attention.head_count is 3, it must be a divisor of embedding_length",
        ),
        (
            "bitnet-b1.58.attention.head_count_kv",
            V::U32(0),
            "bitnet-b1.58.attention.head_count_kv is 0, it must be 1 to 2",
        ),
        (
            "bitnet-b1.58.rope.dimension_count",
            V::U32(32),
            "bitnet-b1.58.rope.dimension_count is 32, it must be the width of a head",
        ),
        (
            "bitnet-b1.58.rope.freq_base",
            V::F32(f32::NAN),
            "bitnet-b1.58.rope.freq_base is NaN, it must be a finite number above 0",
        ),
        (
            "bitnet-b1.58.attention.layer_norm_rms_epsilon",
            V::F32(0.0),
            "bitnet-b1.58.attention.layer_norm_rms_epsilon is 0, it must be a finite number above 0",
        ),
        (
            "bitnet-b1.58.rope.scaling.type",
            V::Str("yarn"),
            "bitnet-b1.58.rope.scaling.type is \"yarn\": rope scaling is not supported",
        ),
        (
            "bitnet-b1.58.rope.scaling.factor",
            V::F32(4.0),
            "bitnet-b1.58.rope.scaling.factor is 4: rope scaling is not supported",
        ),
        (
            "bitnet-b1.58.expert_count",
            V::U32(8),
            "bitnet-b1.58.expert_count is 8: a mixture of experts is not supported",
        ),
        (
            "bitnet-b1.58.block_count",
            V::Str("1"),
            "key bitnet-b1.58.block_count must be an unsigned 32-bit number, the file has string \"1\"",
        ),
        (
            "tokenizer.ggml.tokens",
            V::Bool(true),
            "key tokenizer.ggml.tokens must be an array, the file has bool true",
        ),
    ] {
        assert_eq!(set(key, value), message);
    }
    let missing = error(|w| {
        w.remove("bitnet-b1.58.context_length");
    });
    assert_eq!(
        missing.to_string(),
        "the file has no key bitnet-b1.58.context_length: it is not a complete model"
    );
}

#[test]
fn bitnet_25_is_the_same_graph() {
    let mut writer = small_model();
    for (key, _) in &mut writer.keys {
        *key = key.replace("bitnet-b1.58", "bitnet-25");
    }
    writer.set("general.architecture", V::Str("bitnet-25"));
    assert_eq!(writer.load().unwrap().0.config.architecture_name, "bitnet-25");
}

#[test]
fn paths() {
    let open = |path: &Path| Model::open(path, MapOptions::default());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    assert!(matches!(open(&path("absent.gguf")), Err(ModelError::NotFound { .. })));
    std::fs::write(path("notes.txt"), "x").unwrap();
    assert!(matches!(open(directory.path()), Err(ModelError::NoModel { .. })));
    std::fs::write(path("b.gguf"), small_model().build().0).unwrap();
    let opened = open(directory.path()).unwrap();
    assert_eq!((opened.path, &*opened.model.config.name), (path("b.gguf"), "b"));
    std::fs::write(path("a.GGUF"), "x").unwrap();
    let several = open(directory.path()).err().unwrap().to_string();
    assert!(
        several.starts_with("2 .gguf files") && several.ends_with("a.GGUF, b.gguf"),
        "{several}"
    );
    assert!(matches!(open(&path("a.GGUF")), Err(ModelError::Invalid { .. })));
}
