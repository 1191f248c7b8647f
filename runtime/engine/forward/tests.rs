use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::engine::kv::CacheTypes;
use crate::engine::sparsity::COUNTED;
use crate::engine::testing;
use crate::machine::LARGEST_PAGE;
use crate::model::{Layer, Layout, Packing, Skipping, Ternary};

/// The logits of every position of `tokens`, in passes of at most `chunk` rows.
fn logits(threads: usize, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let model = testing::model();
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), tokens.len())];
    let mut forward = Forward::new(model, testing::kernels(), threads);
    let mut all = Vec::new();
    for (c, tokens) in tokens.chunks(chunk).enumerate() {
        let rows = rows(0, c * chunk, tokens);
        let output = forward.pass(&mut caches, &rows).unwrap();
        all.extend((0..rows.len()).map(|r| output.logits(r).unwrap().all().to_vec()));
    }
    all
}

fn rows(cache: usize, position: usize, tokens: &[u32]) -> Vec<Row> {
    let row = |(i, &token)| Row {
        cache,
        position: position + i,
        token,
        need: Need::All,
    };
    tokens.iter().enumerate().map(row).collect()
}

const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

#[test]
fn chunks_and_threads_do_not_change_a_bit() {
    let expected = logits(1, &TOKENS, 1);
    assert!(expected.iter().all(|row| row.iter().any(|&x| x != 0.0)));
    assert_ne!(expected[0], expected[1]);
    for threads in [1, 2, 3] {
        for chunk in [1, 2, 4, 9] {
            assert_eq!(
                logits(threads, &TOKENS, chunk),
                expected,
                "{threads} threads, chunks of {chunk}"
            );
        }
    }
}

/// Re-packing between two passes, so that half of a sequence is computed in either layout.
#[test]
fn repacked_weights_do_not_change_a_bit() {
    let expected = logits(1, &TOKENS, 1);
    for kernels in testing::runnable() {
        let model = testing::model();
        let mut caches = [KvCache::new(&model.config, CacheTypes::default(), TOKENS.len())];
        let mut forward = Forward::new(model.clone(), kernels, 2);
        let before = forward.traffic();
        let mut check = |forward: &mut Forward, chunk: std::ops::Range<usize>| {
            let output = forward
                .pass(&mut caches, &rows(0, chunk.start, &TOKENS[chunk.clone()]))
                .unwrap();
            (0..chunk.len()).for_each(|r| {
                assert_eq!(
                    output.logits(r).unwrap().all(),
                    expected[chunk.start + r],
                    "{}",
                    kernels.name
                )
            });
        };
        check(&mut forward, 0..3);
        if let Some(packing) = kernels.packing() {
            model.repack(None, &packing.into(), &AtomicBool::new(false)).unwrap();
            assert!(
                model.matrices().all(|(_, w)| w.repacked().is_some()),
                "the test's shapes are whole tiles"
            );
            let bytes = 8.0 / packing.weights_per_byte as f64 / 2.0 * before.body as f64;
            assert!((forward.traffic().body as f64 - bytes).abs() < 0.1 * bytes);
        }
        check(&mut forward, 3..4);
        check(&mut forward, 4..9);
    }
}

/// Columns of down in one layer of two, and rows of up in the other, in both or in none.
#[test]
fn what_is_skipped_does_not_change_a_bit() {
    let expected = logits(1, &TOKENS, 1);
    for (kernels, rows_order, both) in testing::skipping() {
        for threads in [1, 2, 3] {
            let model = testing::model();
            let down = Skipping { up: None, ..both };
            let up = Skipping { down: None, ..both };
            let skipping = [vec![up, down], vec![up, both], vec![down, both]][threads - 1].clone();
            let layout = Layout {
                rows: rows_order,
                skipping: skipping.clone(),
            };
            model.repack(None, &layout, &AtomicBool::new(false)).unwrap();
            for (layer, skipping) in model.layers.iter().zip(skipping) {
                let packing = |w: &Ternary| w.repacked().unwrap().packing;
                assert_eq!(packing(&layer.ffn_up), skipping.up.unwrap_or(rows_order));
                assert_eq!(packing(&layer.ffn_down), skipping.down.unwrap_or(rows_order));
            }
            let mut caches = [KvCache::new(&model.config, CacheTypes::default(), TOKENS.len())];
            let mut forward = Forward::new(model, kernels, threads);
            for chunk in [0..1, 1..2, 2..4, 4..9] {
                let rows = rows(0, chunk.start, &TOKENS[chunk.clone()]);
                let output = forward.pass(&mut caches, &rows).unwrap();
                for (r, position) in chunk.enumerate() {
                    assert_eq!(output.logits(r).unwrap().all(), expected[position], "{threads} threads");
                }
            }
        }
    }
}

/// Rows of up, in all layers.
#[test]
fn rows_under_closed_gates_are_neither_computed_nor_counted() {
    for (kernels, rows_order, both) in testing::skipping() {
        let model = testing::model();
        let skipping = vec![Skipping { down: None, ..both }; model.layers.len()];
        let layout = Layout {
            rows: rows_order,
            skipping,
        };
        model.repack(None, &layout, &AtomicBool::new(false)).unwrap();
        let mut caches = [KvCache::new(&model.config, CacheTypes::default(), TOKENS.len())];
        let mut forward = Forward::new(model.clone(), kernels, 2);
        let all = forward.traffic().body;
        for (position, &token) in TOKENS.iter().enumerate() {
            forward.pass(&mut caches, &rows(0, position, &[token])).unwrap();
            let skipped: usize = (forward.sparsity.iter().zip(&model.layers))
                .map(|(counts, layer)| {
                    let up = layer.ffn_up.repacked().unwrap().data.len();
                    up - (up as f64 * (1.0 - counts.last_skipped().gate_closed)) as usize
                })
                .sum();
            assert!(skipped > 0);
            assert_eq!(forward.traffic().body, all - skipped);
            // Of the last layer.
            let (gate, up) = (&forward.scratch.gate, &forward.scratch.up);
            let closed: Vec<_> = gate.iter().zip(up).filter(|(gate, _)| **gate <= 0.0).collect();
            assert!(!closed.is_empty() && closed.iter().all(|(_, up)| **up == 0.0));
            assert!(up.iter().filter(|up| **up != 0.0).count() > up.len() / 4);
        }
    }
}

/// To skipping and back between the passes, in either layer and matrix at another time.
#[test]
fn layouts_that_change_between_passes_do_not_change_a_bit() {
    let expected = logits(1, &TOKENS, 1);
    let go_on = AtomicBool::new(false);
    for (kernels, by_rows, both) in testing::skipping() {
        let model = testing::model();
        model.repack(None, &by_rows.into(), &go_on).unwrap();
        let mut caches = [KvCache::new(&model.config, CacheTypes::default(), TOKENS.len())];
        let mut forward = Forward::new(model.clone(), kernels, 2);
        for (position, &token) in TOKENS.iter().enumerate() {
            let skipping = [1, 2].map(|bit| Skipping {
                up: both.up.filter(|_| position & bit == 0),
                down: both.down.filter(|_| position & bit != 0),
            });
            let layout = Layout {
                rows: by_rows,
                skipping: skipping.to_vec(),
            };
            let changed = model.change_over(&layout, &go_on).unwrap();
            assert_eq!(changed, [2, 2, 4, 2, 4, 2, 4, 2, 4][position]);
            let output = forward.pass(&mut caches, &rows(0, position, &[token])).unwrap();
            assert_eq!(output.logits(0).unwrap().all(), expected[position], "{}", kernels.name);
        }
    }
}

/// All matrices are laid out anew as fast as possible, with the kernels' layouts and with one that they do not know, in the midst of passes.
#[test]
fn layouts_that_change_within_passes_do_not_change_a_bit() {
    let expected = logits(1, &TOKENS, 1);
    for kernels in testing::runnable() {
        let Some(packing) = kernels.packing() else { continue };
        let unknown = Packing {
            rows: packing.rows / 2,
            ..packing
        };
        let model = testing::model();
        let stop = AtomicBool::new(false);
        model.repack(None, &packing.into(), &stop).unwrap();
        let mut changes = 0;
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                let skipping = Layout {
                    rows: packing,
                    skipping: vec![kernels.skipping(); model.layers.len()],
                };
                let layouts = [unknown.into(), packing.into(), skipping];
                let mut all = layouts.iter().cycle();
                let mut changes = 0;
                while !stop.load(Relaxed) {
                    changes += model.change_over(all.next().unwrap(), &stop).unwrap();
                }
                changes
            });
            let mut caches = [KvCache::new(&model.config, CacheTypes::default(), TOKENS.len())];
            let mut forward = Forward::new(model.clone(), kernels, 2);
            for _ in 0..30 {
                let output = forward.pass(&mut caches, &rows(0, 0, &TOKENS)).unwrap();
                let equal = (0..TOKENS.len()).all(|r| output.logits(r).unwrap().all() == expected[r]);
                // Before it is asserted: a panic waits for the other thread.
                stop.store(!equal, Relaxed);
                assert!(equal, "{}", kernels.name);
            }
            stop.store(true, Relaxed);
            changes = changing.join().unwrap();
        });
        assert!(changes > 0);
    }
}

#[test]
fn zeros_are_averaged_over_what_is_generated() {
    let model = testing::model();
    let averages = |layer: &Layer| (layer.gates_closed.share(), layer.down_zeros.share());
    let before = averages(&model.layers[0]);
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 64)];
    let mut forward = Forward::new(model.clone(), testing::kernels(), 1);
    forward.pass(&mut caches, &rows(0, 0, &[7; COUNTED + 1])).unwrap();
    assert_eq!(averages(&model.layers[0]), before, "a prompt");
    forward.pass(&mut caches, &rows(0, 0, &TOKENS)).unwrap();
    for (layer, shares) in model.layers.iter().zip(forward.sparsity()) {
        let expected = |before, share| before + (share - before) * TOKENS.len() as f64 / 256.0;
        let (gates, zeros) = averages(layer);
        assert!((gates - expected(before.0, shares.gate_closed)).abs() < 1e-9);
        assert!((zeros - expected(before.1, shares.down_zero)).abs() < 1e-9);
    }
}

#[test]
fn memory_of_a_long_prompt_is_given_back_once_its_answer_goes_on() {
    let model = testing::model_with_long_inner_vector();
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 64)];
    let mut forward = Forward::new(model, testing::kernels(), 1);
    let prompt = [7; 33];
    for _ in 0..2 {
        forward.pass(&mut caches, &rows(0, 0, &prompt)).unwrap();
        for pass in 0..16 {
            let rest = &forward.scratch.gate[4096..];
            let kept = rest.iter().filter(|gate| **gate != 0.0).count();
            assert!(kept > rest.len() / 2, "{kept} after {pass} passes");
            forward.pass(&mut caches, &rows(0, 33, &[7])).unwrap();
        }
        let kept = forward.scratch.gate[4096..].iter().filter(|gate| **gate != 0.0).count();
        // The ends of a buffer share their pages with others.
        assert!(kept <= 2 * LARGEST_PAGE / 4, "{kept}");
    }
    // Nor do the inputs of down stay, of which the last passes had one row.
    let codes = &mut forward.scratch.quant.q;
    codes.resize(33 * 4096);
    let longest = codes.split(|code| *code != 0).map(<[i8]>::len).max();
    assert!(longest >= Some(LARGEST_PAGE - 4096), "{longest:?} zeros");
}

#[test]
fn neighbours_do_not_change_a_bit() {
    let model = testing::model();
    let others = [7u32, 8, 9, 10];
    let alone = (logits(1, &TOKENS, 9), logits(1, &others, 4));
    // Two sequences side by side: decode rows of one beside the prompt of the other, in another cache order.
    let mut caches = [
        KvCache::new(&model.config, CacheTypes::default(), 4),
        KvCache::new(&model.config, CacheTypes::default(), 30),
    ];
    let mut forward = Forward::new(model, testing::kernels(), 2);
    let first = [rows(1, 0, &TOKENS[..6]), rows(0, 0, &others[..1])].concat();
    let second = [rows(0, 1, &others[1..]), rows(1, 6, &TOKENS[6..])].concat();
    let output = forward.pass(&mut caches, &first).unwrap();
    (0..6).for_each(|r| assert_eq!(output.logits(r).unwrap().all(), alone.0[r]));
    assert_eq!(output.logits(6).unwrap().all(), alone.1[0]);
    let output = forward.pass(&mut caches, &second).unwrap();
    (0..3).for_each(|r| assert_eq!(output.logits(r).unwrap().all(), alone.1[r + 1]));
    (3..6).for_each(|r| assert_eq!(output.logits(r).unwrap().all(), alone.0[r + 3]));
}

#[test]
fn logits_only_where_they_are_wanted() {
    let expected = logits(1, &TOKENS, 9);
    let model = testing::model();
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 9)];
    let mut forward = Forward::new(model, testing::kernels(), 1);
    let mut rows = rows(0, 0, &TOKENS);
    rows.iter_mut()
        .filter(|row| ![2, 8].contains(&row.position))
        .for_each(|row| row.need = Need::None);
    let output = forward.pass(&mut caches, &rows).unwrap();
    assert_eq!(output.logits(2).unwrap().all(), expected[2]);
    assert_eq!(output.logits(8).unwrap().all(), expected[8]);
    assert_eq!(
        forward.scratch.kept,
        [2, 8],
        "no other row goes through all of the last layer"
    );
    assert_eq!(forward.head().whole_rows(), 2);
    forward.count(&mut caches, &rows).unwrap();
    assert_eq!(forward.head().whole_rows(), 2, "nor through the head");
}

#[test]
fn buffers_stay_within_their_bound() {
    let model = testing::model();
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 9)];
    let mut forward = Forward::new(model.clone(), testing::kernels(), 1);
    forward.pass(&mut caches, &rows(0, 0, &TOKENS)).unwrap();
    let s = &forward.scratch;
    let floats = [&s.x, &s.q, &s.k, &s.v, &s.mixed, &s.gate, &s.up, &s.cos, &s.sin];
    let bytes = floats.iter().map(|buffer| 4 * buffer.len()).sum::<usize>() + s.quant.q.len();
    let bound = |rows| buffer_bytes(&model.config, 0, rows, 0);
    assert!(
        (bound(TOKENS.len() - 1)..=bound(TOKENS.len())).contains(&(bytes as u64)),
        "{bytes}"
    );
}

#[test]
fn rows_without_logits_leave_all_that_later_ones_read() {
    let expected = logits(1, &TOKENS, 9);
    for threads in [1, 2] {
        let model = testing::model();
        let mut caches = [0, 1].map(|_| KvCache::new(&model.config, CacheTypes::default(), 9));
        let mut forward = Forward::new(model, testing::kernels(), threads);
        // Nobody wants logits; then one row of several, among those of another sequence; then the last row alone.
        for (chunk, wanted) in [(0..4, None), (4..8, Some(6)), (8..9, Some(8))] {
            let mut pass = [
                rows(1, chunk.start, &TOKENS[chunk.clone()]),
                rows(0, chunk.start, &TOKENS[chunk]),
            ]
            .concat();
            let wants = |row: &Row| row.cache == 0 && Some(row.position) == wanted;
            pass.iter_mut()
                .filter(|row| !wants(row))
                .for_each(|row| row.need = Need::None);
            let output = forward.pass(&mut caches, &pass).unwrap();
            for (r, row) in pass.iter().enumerate() {
                output.check(r).unwrap();
                if wants(row) {
                    assert_eq!(output.logits(r).unwrap().all(), expected[row.position]);
                }
            }
        }
    }
}

#[test]
fn the_cache_of_an_earlier_sequence_leaves_no_trace() {
    let model = testing::model();
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 9)];
    let mut forward = Forward::new(model, testing::kernels(), 1);
    forward.pass(&mut caches, &rows(0, 0, &[11; 9])).unwrap();
    let output = forward.pass(&mut caches, &rows(0, 0, &TOKENS)).unwrap();
    assert_eq!(output.logits(8).unwrap().all(), logits(1, &TOKENS, 9)[8]);
}

#[test]
fn a_non_finite_value_fails_its_row_only() {
    // Token 0's embedding is infinite, token 1's is not a number.
    let model = testing::model_with_broken_embedding();
    let mut caches = [0, 1, 2].map(|_| KvCache::new(&model.config, CacheTypes::default(), 4));
    let mut forward = Forward::new(model, testing::kernels(), 2);
    let mut rows = [rows(0, 0, &[0]), rows(1, 0, &[5]), rows(2, 0, &[1])].concat();
    rows.iter_mut().for_each(|row| row.need = Need::None);
    let output = forward.pass(&mut caches, &rows).unwrap();
    assert_eq!(
        [0, 1, 2].map(|row| output.check(row)),
        [Err(NonFinite), Ok(()), Err(NonFinite)]
    );
    // The tied head reads the broken embeddings too.
    rows[1].need = Need::All;
    assert_eq!(forward.pass(&mut caches, &rows).unwrap().logits(1), Err(NonFinite));
}

#[test]
fn an_overflow_inside_is_found() {
    for scale in [f32::MAX, f32::INFINITY, f32::NAN] {
        let model = testing::model_with_scale(scale);
        let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 4)];
        let mut forward = Forward::new(model, testing::kernels(), 1);
        assert_eq!(
            forward.pass(&mut caches, &rows(0, 0, &[5])).unwrap().check(0),
            Err(NonFinite),
            "{scale}"
        );
    }
}
