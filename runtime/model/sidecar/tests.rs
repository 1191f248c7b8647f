use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::model::Order;
use crate::model::testing::{Writer, small_model};

const ROWS: Packing = Packing {
    order: Order::Rows,
    rows: 16,
    weights_per_byte: 5,
    max_cols: 1 << 16,
};
const NOTHING: Skipping = Skipping { up: None, down: None };
const BOTH: Skipping = Skipping {
    up: Some(Packing {
        rows: 1,
        weights_per_byte: 4,
        ..ROWS
    }),
    down: Some(Packing {
        order: Order::Columns,
        rows: 320,
        ..ROWS
    }),
};

/// A small model whose matrices and head differ from row to row; `other` changes a weight.
fn writer(other: bool) -> Writer {
    let mut writer = small_model();
    for (i, tensor) in writer.tensors.iter_mut().enumerate() {
        if tensor.encoding == 36 {
            for (at, byte) in tensor.data[..4096].iter_mut().enumerate() {
                *byte = [0b00_01_10_00, 0b10_10_01_00, 0b01_00_00_10][(at / 7 + i * at / 31) % 3];
            }
        }
    }
    let head = &mut writer.tensor(HEAD).data;
    for (at, half) in head.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *half = (0x3000 + (at * 7919 % 2048) as u16).to_le_bytes();
    }
    writer.tensor("blk.0.ffn_up.weight").data[77] ^= u8::from(other) * 0b10;
    writer
}

const KERNELS: &str = "these";

/// Where the tests' model has its files.
fn cache(dir: &Path) -> CacheDir {
    CacheDir {
        dir: dir.to_owned(),
        model: "/models/model.gguf".into(),
    }
}

/// Another model file with the same folder.
fn elsewhere(dir: &Path) -> CacheDir {
    CacheDir {
        model: "/models/other.gguf".into(),
        ..cache(dir)
    }
}

/// What a model holds after it was prepared with `dir`, and whether all of it had been in the file.
fn prepare(dir: &Path, writer: &Writer, skipping: Skipping) -> (Vec<Vec<u8>>, bool) {
    prepare_as(&cache(dir), KERNELS, writer, skipping)
}

/// The same for any model file and kernels.
fn prepare_as(cache: &CacheDir, kernels: &str, writer: &Writer, skipping: Skipping) -> (Vec<Vec<u8>>, bool) {
    let (model, _) = writer.load().unwrap();
    let go_on = AtomicBool::new(false);
    let mut sidecar = Sidecar::open(cache, kernels, &model, ROWS, BOTH);
    let layout = sidecar.layout().cloned().unwrap_or(Layout {
        rows: ROWS,
        skipping: vec![skipping],
    });
    model.repack(Some(&mut sidecar), &layout, &go_on).unwrap();
    model.code_head(Some(&mut sidecar), &go_on).unwrap();
    sidecar.keep(&model, &layout, &go_on);
    let layer = &model.layers[0];
    for (w, packing) in [(&layer.ffn_up, skipping.up), (&layer.ffn_down, skipping.down)] {
        assert_eq!(w.repacked().unwrap().packing, packing.unwrap_or(ROWS));
    }
    let head = model.coarse.get().unwrap();
    let all = model.matrices().map(|(_, w)| w.repacked().unwrap().data.to_vec());
    let all = all.chain([head.codes().to_vec(), head.numbers()]).collect();
    (all, sidecar.complete().is_some())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A folder with one file, and what is in it.
fn kept(skipping: Skipping) -> (TempDir, PathBuf, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let (made, complete) = prepare(dir.path(), &writer(false), skipping);
    assert!(!complete);
    let path = files(dir.path()).remove(0);
    (dir, path, made)
}

#[test]
fn what_was_made_comes_back_to_the_last_bit() {
    let up_alone = Skipping { down: None, ..BOTH };
    for skipping in [NOTHING, BOTH, up_alone] {
        let (dir, path, made) = kept(skipping);
        let bytes = fs::read(&path).unwrap();
        assert!(prepare(dir.path(), &writer(false), skipping) == (made, true));
        assert_eq!(files(dir.path()), std::slice::from_ref(&path));
        assert!(fs::read(&path).unwrap() == bytes);
    }
}

#[test]
fn nothing_else_in_the_folder_is_touched() {
    let (dir, path, _) = kept(NOTHING);
    fs::write(dir.path().join("other.sterna"), "mine").unwrap();
    fs::write(&path, "").unwrap();
    prepare(dir.path(), &writer(false), NOTHING);
    assert_eq!(files(dir.path()).len(), 2);
    assert_eq!(fs::read(dir.path().join("other.sterna")).unwrap(), b"mine");
}

#[test]
fn damage_is_found_and_repaired() {
    let (dir, path, made) = kept(BOTH);
    let good = fs::read(&path).unwrap();
    let header = 8 * (3 + 3 * 8 + 1);
    let check = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let (all, complete) = prepare(dir.path(), &writer(false), BOTH);
        assert!(all == made && !complete, "{what}");
        assert!(fs::read(&path).unwrap() == good, "{what}: written again");
    };
    for at in (0..header).chain((header..good.len()).step_by(4999)) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        // Between two things, where nothing is.
        if at < header || prepare_is_damaged(&dir, &path, &bytes) {
            check(&bytes, &format!("byte {at}"));
        }
    }
    for len in [0, 1, 7, header - 1, header, good.len() / 2, good.len() - 1] {
        check(&good[..len], &format!("{len} bytes"));
    }
    check(&[&good[..], b"x"].concat(), "one byte more");
    check(&b"x".repeat(good.len()), "all of it");
}

/// False where the flipped byte belongs to nothing; those are few.
fn prepare_is_damaged(dir: &TempDir, path: &Path, bytes: &[u8]) -> bool {
    fs::write(path, bytes).unwrap();
    !prepare(dir.path(), &writer(false), BOTH).1
}

#[test]
fn headers_with_the_right_checksum_can_lie_about_little() {
    let (dir, path, made) = kept(NOTHING);
    let good = fs::read(&path).unwrap();
    let header_len = 8 * (3 + 3 * 8 + 1);
    for word in 0..3 + 3 * 8 {
        for value in [0, 1, 2, u64::MAX] {
            let mut bytes = good.clone();
            bytes[8 * word..][..8].copy_from_slice(&u64::to_le_bytes(value));
            let sum = checksum([&bytes[..header_len - 8]]);
            bytes[header_len - 8..header_len].copy_from_slice(&sum.to_le_bytes());
            fs::write(&path, &bytes).unwrap();
            // A matrix that is said to be laid out for skipping has another length here. With 4 weights a byte throughout only its
            // checksum could tell, which a forger makes as well.
            assert!(prepare(dir.path(), &writer(false), NOTHING).0 == made, "{word} {value}");
        }
    }
}

#[test]
fn other_weights_are_never_taken() {
    let (dir, path, made) = kept(NOTHING);
    let (others, complete) = prepare(dir.path(), &writer(true), NOTHING);
    assert!(
        !complete,
        "one key, since the scales are the same, but another checksum"
    );
    assert!(others != made);
    assert_eq!(files(dir.path()), [path]);

    assert!(prepare_as(&elsewhere(dir.path()), KERNELS, &scaled(), NOTHING) == (made, false));
    assert_eq!(files(dir.path()).len(), 2, "two keys");
    assert!(prepare(dir.path(), &writer(true), NOTHING) == (others, true));
}

/// Other scales, and so another key.
fn scaled() -> Writer {
    let mut scaled = writer(false);
    scaled.tensor("blk.0.ffn_up.weight").data[4096..4100].copy_from_slice(&0.25f32.to_le_bytes());
    scaled
}

#[test]
fn a_new_file_takes_the_place_of_older_ones_of_the_same_model() {
    let (dir, path, _) = kept(NOTHING);
    let old = fs::read(&path).unwrap();
    // Another version, with anything behind the first words.
    let foreign = dir.path().join("0000000000000004.sterna");
    let mut start = old[..24].to_vec();
    start[7] += 1;
    start[8..16].copy_from_slice(&4u64.to_le_bytes());
    fs::write(&foreign, start).unwrap();
    prepare(dir.path(), &scaled(), NOTHING);
    assert!(!path.exists() && !foreign.exists());
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn nothing_else_is_removed_for_a_new_file() {
    let (dir, path, _) = kept(NOTHING);
    let old = fs::read(&path).unwrap();
    // Of another model file, and of another machine's kernels.
    prepare_as(&elsewhere(dir.path()), KERNELS, &scaled(), NOTHING);
    assert!(path.exists());
    let theirs = files(dir.path()).into_iter().find(|file| *file != path).unwrap();
    fs::remove_file(theirs).unwrap();
    prepare_as(&cache(dir.path()), "others", &scaled(), NOTHING);
    assert!(path.exists());

    // What has a name like ours or a content like ours, but not both, or is a link.
    let key = path.file_stem().unwrap().to_str().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("0000000000000001.sterna", &old);
    write("0000000000000002.sterna", b"");
    write("0000000000000003.sterna", &[b"x", &old[1..]].concat());
    write("1.sterna", &[&old[..8], &1u64.to_le_bytes(), &old[16..]].concat());
    write(&format!("{key}.gguf"), &old);
    fs::create_dir(dir.path().join("0000000000000005.sterna")).unwrap();
    let (link, aim) = (dir.path().join("0000000000000006.sterna"), dir.path().join("aim"));
    write("aim", &[&old[..8], &6u64.to_le_bytes(), &old[16..]].concat());
    std::os::unix::fs::symlink(aim, link).unwrap();
    let before = files(dir.path());
    let mut third = scaled();
    third.tensor("blk.0.ffn_up.weight").data[4096..4100].copy_from_slice(&0.75f32.to_le_bytes());
    prepare(dir.path(), &third, NOTHING);
    let after = files(dir.path());
    let gone: Vec<_> = before.iter().filter(|file| !after.contains(file)).collect();
    assert_eq!(gone, [&path]);
    assert_eq!(after.len(), before.len());
}

#[test]
fn folders_that_cannot_be_used_change_nothing() {
    let (dir, path, made) = kept(NOTHING);
    let same = |dir: &Path| assert!(prepare(dir, &writer(false), NOTHING) == (made.clone(), false));
    same(&dir.path().join("missing"));
    same(&path);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    same(dir.path());
    assert_eq!(
        files(dir.path()),
        std::slice::from_ref(&path),
        "no temporary file is left"
    );

    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o555)).unwrap();
    same(closed.path());
}

#[test]
fn only_one_writes_and_what_a_killed_one_left_is_used_up() {
    let (dir, path, made) = kept(NOTHING);
    fs::remove_file(&path).unwrap();
    let temporary = path.with_extension("sterna.tmp");
    let other = File::create(&temporary).unwrap();
    other.lock().unwrap();
    assert!(prepare(dir.path(), &writer(false), NOTHING) == (made.clone(), false));
    assert_eq!(files(dir.path()), std::slice::from_ref(&temporary));
    drop(other);
    assert!(prepare(dir.path(), &writer(false), NOTHING) == (made, false));
    assert_eq!(files(dir.path()), [path]);
}

#[test]
fn links_are_not_followed_for_writing() {
    let (dir, path, _) = kept(NOTHING);
    fs::remove_file(&path).unwrap();
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::write(victim.path(), "mine").unwrap();
    std::os::unix::fs::symlink(victim.path(), path.with_extension("sterna.tmp")).unwrap();
    prepare(dir.path(), &writer(false), NOTHING);
    assert_eq!(fs::read(victim.path()).unwrap(), b"mine");
}

#[test]
fn what_is_not_finished_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = writer(false).load().unwrap();
    let (stop, layout) = (AtomicBool::new(true), ROWS.into());
    let mut sidecar = Sidecar::open(&cache(dir.path()), KERNELS, &model, ROWS, NOTHING);
    model.repack(Some(&mut sidecar), &layout, &stop).unwrap();
    sidecar.keep(&model, &layout, &AtomicBool::new(false));
    assert_eq!(files(dir.path()), [] as [PathBuf; 0]);
    model.repack(None, &layout, &AtomicBool::new(false)).unwrap();
    sidecar.keep(&model, &layout, &stop);
    assert_eq!(files(dir.path()), [] as [PathBuf; 0]);

    // A head that came later is kept as well.
    sidecar.keep(&model, &layout, &AtomicBool::new(false));
    let len = |dir: &Path| fs::metadata(&files(dir)[0]).unwrap().len();
    let without = len(dir.path());
    let mut sidecar = Sidecar::open(&cache(dir.path()), KERNELS, &model, ROWS, NOTHING);
    assert!(sidecar.read_head(&model).is_none() && sidecar.complete().is_some());
    model.code_head(None, &AtomicBool::new(false)).unwrap();
    sidecar.keep(&model, &layout, &AtomicBool::new(false));
    assert!(len(dir.path()) > without + 259 * 128);
}

#[test]
fn a_checksum_sees_every_bit_and_every_boundary() {
    let bytes: Vec<u8> = (0..200u32).map(|i| (i * 37) as u8).collect();
    let sum = checksum([&*bytes]);
    for bit in 0..8 * bytes.len() {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(checksum([&*other]), sum, "{bit}");
    }
    for (a, b) in (0..200).map(|at| bytes.split_at(at)) {
        assert_ne!(checksum([a]), sum);
        assert_ne!(checksum([a, b]), sum);
    }
    assert_ne!(checksum([&[0u8; 3][..]]), checksum([&[0u8; 4][..]]));
}

/// Other bytes for the same model are another version of the file: raise it in `MAGIC` when this changes.
#[test]
fn the_version_says_what_the_bytes_are() {
    let (_dir, path, _) = kept(BOTH);
    assert_eq!(checksum([&*fs::read(&path).unwrap()]), 15_447_782_979_297_743_957);
}
