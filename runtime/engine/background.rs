//! What makes a loaded model faster, or finds it invalid: work that can wait, beside the first answers.
//!
//! Nothing here changes a token. The weights change over to their re-packed form from one matrix product to the next, and each
//! feed-forward to one that skips zeros, or back, when what is generated has other zeros than before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::forward::{Forward, Row};
use super::head::Need;
use super::kv::{CacheTypes, KvCache};
use super::sparsity::{self, COUNTED, Shares};
use crate::kernels::Variant;
use crate::machine::STACK_BYTES;
use crate::machine::limits::{self, Limits};
use crate::model::zeros::{DOWN, UP};
use crate::model::{CacheDir, CoarseHead, InvalidModel, Layer, Layout, Model, Packing, RepackError, Sidecar, Skipping};

/// [`prepare`], then [`follow`], on a thread of its own. Dropping it stops the work at the next occasion, and waits for nothing: a command ends at once.
pub struct Preparing {
    cancel: Arc<AtomicBool>,
}

impl Preparing {
    /// Starts with a model whose weights were checked. `cache` and `other_bytes` as in [`prepare`].
    pub fn start(
        model: Arc<Model>,
        kernels: &'static Variant,
        cache: Option<CacheDir>,
        other_bytes: u64,
        priority: Priority,
    ) -> Self {
        let cancel = Arc::new(AtomicBool::new(false));
        let cancelled = Arc::clone(&cancel);
        // Without a thread the weights stay as they are.
        let thread = thread::Builder::new()
            .name("sterna-prepare".into())
            .stack_size(STACK_BYTES);
        let _ = thread.spawn(move || {
            if priority == Priority::WhenIdle {
                limits::run_when_idle();
            }
            match prepare(&model, kernels, true, cache.as_ref(), other_bytes, &cancelled) {
                Ok(()) => follow(model, kernels, &cancelled),
                // They were good when they were checked: the file was changed, which the engine notices as well.
                Err(error) => tracing::error!("{error}"),
            }
        });
        Preparing { cancel }
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// Who goes first when the cores are busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Everybody else.
    WhenIdle,
    /// Nobody: to be done soon although the cores are busy.
    AsOthers,
}

/// Makes the model as fast as it gets, and checks what opening it did not: that every weight is ternary.
///
/// Reads the whole file once. `other_bytes` is the memory that others need: without room beside that and what of the file cannot be given
/// back, or with `repack` off, the weights stay as they are. What is made is kept in a file in `cache`, and read from there the next time.
pub fn prepare(
    model: &Arc<Model>,
    kernels: &'static Variant,
    repack: bool,
    cache: Option<&CacheDir>,
    other_bytes: u64,
    cancel: &AtomicBool,
) -> Result<(), InvalidModel> {
    let other_bytes = other_bytes.saturating_add(model.mapping.pinned_bytes());
    // Whatever the feed-forward changes over to later.
    let body_bytes = |rows| model.repacked_bytes(rows, kernels.skipping()) as u64;
    let packing = kernels
        .packing()
        .filter(|&rows| repack && fits("re-packing the weights", body_bytes(rows), other_bytes));
    let mut kept = packing
        .zip(cache)
        .map(|(rows, cache)| Sidecar::open(cache, kernels.name, model, rows, kernels.skipping()));
    let layout = packing.map(|rows| match kept.as_ref().and_then(Sidecar::layout) {
        Some(layout) => layout.clone(),
        None => layout(model, kernels, rows),
    });
    match &layout {
        Some(layout) => self::repack(model, kernels, kept.as_mut(), layout, cancel)?,
        None => model.validate_codes()?,
    }
    let head_bytes = CoarseHead::bytes_for(&model.embedding) as u64;
    let body_bytes = packing.map_or(0, body_bytes);
    if repack && fits("coding the output head", head_bytes + body_bytes, other_bytes) {
        code_head(model, kept.as_mut().filter(|_| layout.is_some()), cancel);
    }
    if let (Some(kept), Some(layout)) = (kept, layout)
        && !cancel.load(Ordering::Relaxed)
    {
        kept.keep(model, &layout, cancel);
    }
    if packing.is_some() {
        // Of names, the vocabulary, and what was read of the weights meanwhile. What is still read comes back.
        model.mapping.release((*model.mapping).as_ref());
    }
    Ok(())
}

/// Time between two looks at the zeros: a few looks while their average moves over to another text (256 tokens).
const LOOK: Duration = Duration::from_secs(5);

/// After [`prepare`]: keeps the layout of each feed-forward to what is generated. Returns soon after the model is dropped by all others, or
/// `cancel` is set; at once where there is nothing to choose. In between it sleeps.
pub fn follow(model: Arc<Model>, kernels: &'static Variant, cancel: &AtomicBool) {
    // Speed for later, never at the cost of the answers now.
    limits::run_when_idle();
    look_again(model, kernels, cancel, || thread::sleep(LOOK));
}

/// [`rechoose`], and again after each `wait`, during which nothing here holds the model.
fn look_again(model: Arc<Model>, kernels: &Variant, cancel: &AtomicBool, mut wait: impl FnMut()) {
    let weak = Arc::downgrade(&model);
    let mut there = Some(model);
    while let Some(model) = there
        && rechoose(&model, kernels, cancel)
        && !cancel.load(Ordering::Relaxed)
    {
        drop(model);
        wait();
        there = weak.upgrade();
    }
}

/// Changes each feed-forward over to the layouts that pay by its recent zeros. False where no later look can change anything: without
/// kernels that skip, without re-packed weights, or after a failure.
fn rechoose(model: &Model, kernels: &Variant, cancel: &AtomicBool) -> bool {
    let skipping = kernels.skipping();
    let Some(rows) = kernels.packing().filter(|_| skipping != Skipping::default()) else {
        return false;
    };
    let choice = |layer: &Layer| {
        let shares = Shares {
            gate_closed: layer.gates_closed.share(),
            down_zero: layer.down_zeros.share(),
        };
        choose(&shares, skipping, layer.skipping(skipping))
    };
    let chosen = model.layers.iter().map(choice).collect();
    let layout = Layout { rows, skipping: chosen };
    match model.change_over(&layout, cancel) {
        Ok(0) => {}
        Ok(matrices) => {
            let (up, down) = count(model.layers.iter().map(|layer| layer.skipping(skipping)));
            tracing::info!(
                matrices,
                layers_that_skip_rows_of_up = up,
                layers_that_skip_columns_of_down = down,
                "feed-forward: laid out anew for the zeros of the last tokens"
            );
        }
        Err(error) => {
            tracing::warn!("the feed-forward stays as it is laid out: {error}");
            return false;
        }
    }
    let mut either = model.layers.iter().flat_map(|layer| [&layer.ffn_up, &layer.ffn_down]);
    either.any(|w| w.repacked().is_some())
}

/// All by tiles of rows, but for each feed-forward that is mostly zero.
fn layout(model: &Arc<Model>, kernels: &'static Variant, rows: Packing) -> Layout {
    let skipping = kernels.skipping();
    if skipping == Skipping::default() {
        return rows.into();
    }
    let shares = measure(model, kernels);
    let choice = |shares| choose(shares, skipping, Skipping::default());
    let chosen: Vec<_> = shares.iter().map(choice).collect();
    let (up, down) = count(chosen.iter().copied());
    tracing::info!(
        layers_that_skip_rows_of_up = up,
        layers_that_skip_columns_of_down = down,
        "feed-forward: {}",
        sparsity::summary(&shares)
    );
    Layout { rows, skipping: chosen }
}

/// What of `skipping` pays in a layer that has these zeros, and skips `now`.
fn choose(shares: &Shares, skipping: Skipping, now: Skipping) -> Skipping {
    Skipping {
        up: skipping.up.filter(|_| UP.pay(shares.gate_closed, now.up.is_some())),
        down: (skipping.down).filter(|_| DOWN.pay(shares.down_zero, now.down.is_some())),
    }
}

/// How many layers skip rows of up, and how many columns of down.
fn count(layers: impl Iterator<Item = Skipping> + Clone) -> (usize, usize) {
    let up = layers.clone().filter(|layer| layer.up.is_some());
    (up.count(), layers.filter(|layer| layer.down.is_some()).count())
}

/// How much of each layer's feed-forward is zero for tokens from all over the vocabulary; empty where the model fails, or there is no
/// memory to find out.
fn measure(model: &Arc<Model>, kernels: &'static Variant) -> Vec<Shares> {
    let config = &model.config;
    let tokens = COUNTED.min(config.context);
    let rows: Vec<Row> = (0..tokens)
        .map(|position| Row {
            cache: 0,
            position,
            token: (position * 7919 % config.vocab) as u32,
            need: Need::None,
        })
        .collect();
    // On one thread: the others belong to the answers.
    let mut forward = Forward::new(Arc::clone(model), kernels, 1);
    let Ok(cache) = KvCache::reserve(config, CacheTypes::default(), tokens) else {
        return Vec::new();
    };
    let valid = match forward.count(&mut [cache], &rows) {
        Ok(output) => (0..tokens).all(|row| output.check(row).is_ok()),
        Err(_) => false,
    };
    if valid { forward.sparsity() } else { Vec::new() }
}

fn repack(
    model: &Model,
    kernels: &Variant,
    mut kept: Option<&mut Sidecar>,
    layout: &Layout,
    cancel: &AtomicBool,
) -> Result<(), InvalidModel> {
    let began = Instant::now();
    match model.repack(kept.as_deref_mut(), layout, cancel) {
        Ok(()) => {
            let repacked = model.matrices().filter_map(|(_, w)| w.repacked());
            let bytes: usize = repacked.map(|packed| packed.data.len()).sum();
            tracing::info!(
                mib = bytes >> 20,
                ms = began.elapsed().as_millis() as u64,
                "weights re-packed for {}{}",
                kernels.name,
                match kept.as_deref().and_then(Sidecar::complete) {
                    Some(path) => format!(", read from {}", path.display()),
                    None => String::new(),
                }
            );
            Ok(())
        }
        Err(RepackError::Invalid(reason)) => Err(reason),
        Err(error @ RepackError::Memory(_)) => {
            tracing::warn!("going on with the rest of the weights as the file has them: {error}");
            model.validate_codes()
        }
    }
}

fn code_head(model: &Model, kept: Option<&mut Sidecar>, cancel: &AtomicBool) {
    let began = Instant::now();
    match model.code_head(kept, cancel) {
        Ok(()) => tracing::info!(
            mib = CoarseHead::bytes_for(&model.embedding) >> 20,
            ms = began.elapsed().as_millis() as u64,
            "output head coded: the same tokens for three eighths of its bytes"
        ),
        Err(reason) => tracing::info!("the output head is read as the file has it: {reason}"),
    }
}

/// The tokenizer, the server's threads, the allocator's waste.
const SLACK: u64 = 64 << 20;

/// Whether there is memory for `bytes` beside `other_bytes`. Pages of a mapped file do not count: the system can drop them.
fn fits(what: &str, bytes: u64, other_bytes: u64) -> bool {
    let need = other_bytes.saturating_add(bytes + SLACK);
    match Limits::read().memory_bytes {
        Some(limit) if need > limit => {
            tracing::info!(
                "{what} is left out: it needs {} MiB in all, and {} MiB of memory may be used",
                need >> 20,
                limit >> 20
            );
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;
    use crate::model::{MapOptions, Order, Ternary};

    #[test]
    fn layers_with_many_zeros_skip_them() {
        let packing = |order, rows| Packing {
            order,
            rows,
            weights_per_byte: 4,
            max_cols: 1 << 16,
        };
        let both = Skipping {
            up: Some(packing(Order::Rows, 1)),
            down: Some(packing(Order::Columns, 256)),
        };
        let nothing = Skipping::default();
        let up = Skipping { down: None, ..both };
        let down = Skipping { up: None, ..both };
        let of = |gate_closed, down_zero| Shares { gate_closed, down_zero };
        let between = of(UP.dense.midpoint(UP.sparse), DOWN.dense.midpoint(DOWN.sparse));
        let cases = [
            (of(0.0, 0.0), both, nothing),
            (of(UP.sparse, 0.0), nothing, up),
            (of(0.0, DOWN.sparse), nothing, down),
            (of(1.0, 1.0), nothing, both),
            (of(f64::NAN, f64::NAN), both, nothing),
            (between, nothing, nothing),
            (between, up, up),
            (between, down, down),
        ];
        for (shares, now, expected) in cases {
            assert_eq!(choose(&shares, both, now), expected, "{shares:?}");
            assert_eq!(choose(&shares, nothing, now), nothing);
        }
        assert_eq!(count([up, both, nothing].into_iter()), (2, 1));
    }

    #[test]
    fn what_is_measured_is_every_layer_or_nothing() {
        let (model, kernels) = (testing::model(), testing::kernels());
        let shares = measure(&model, kernels);
        assert_eq!(shares.len(), model.layers.len());
        assert!(
            shares.iter().all(|shares| (0.3..0.7).contains(&shares.gate_closed)),
            "random: {shares:?}"
        );
        assert_eq!(measure(&testing::model_with_scale(f32::NAN), kernels), []);
    }

    /// A copy of the file, unlike its pages, stays beside what is made of it.
    #[test]
    fn what_stays_in_memory_leaves_less_room() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/nano-i2_s.gguf");
        for kernels in testing::runnable() {
            let Some((rows, limit)) = kernels.packing().zip(Limits::read().memory_bytes) else {
                println!("SKIP {}: nothing to re-pack, or no limit", kernels.name);
                continue;
            };
            for mmap in [true, false] {
                let options = MapOptions { mmap, mlock: false };
                let model = Arc::new(Model::open(path.as_ref(), options).unwrap().model);
                let file_bytes = model.mapping.as_ref().as_ref().len() as u64;
                let other_bytes =
                    limit - SLACK - model.repacked_bytes(rows, kernels.skipping()) as u64 - file_bytes / 2;
                prepare(&model, kernels, true, None, other_bytes, &AtomicBool::new(false)).unwrap();
                let repacked = model.matrices().any(|(_, w)| w.repacked().is_some());
                assert_eq!(repacked, mmap, "{}", kernels.name);
            }
        }
    }

    #[test]
    fn layers_follow_the_zeros_of_what_is_generated() {
        let go_on = AtomicBool::new(false);
        for (kernels, rows, skipping) in testing::skipping() {
            let (file, columns) = (skipping.up.unwrap(), skipping.down.unwrap());
            let model = testing::model();
            let packings = || -> Vec<_> {
                let packing = |w: &Ternary| w.repacked().unwrap().packing;
                let layers = model.layers.iter();
                layers
                    .map(|layer| (packing(&layer.ffn_up), packing(&layer.ffn_down)))
                    .collect()
            };
            assert!(!rechoose(&model, kernels, &go_on), "nothing is re-packed");
            model.repack(None, &rows.into(), &go_on).unwrap();
            // Shares of either layer, of gates and of inputs of down, one after the other, each for long enough to be all that counts.
            let steps = [
                ([(0.67, 0.79), (0.69, 0.81)], [(rows, rows), (rows, rows)]),
                ([(0.71, 0.5), (0.2, 0.83)], [(file, rows), (rows, columns)]),
                ([(0.67, 0.85), (0.7, 0.79)], [(file, columns), (file, columns)]),
                ([(0.65, 0.77), (0.69, 0.79)], [(rows, rows), (file, columns)]),
                ([(0.69, 0.79), (0.1, 0.1)], [(rows, rows), (rows, rows)]),
            ];
            for (shares, expected) in steps {
                for (layer, (gates, inputs)) in model.layers.iter().zip(shares) {
                    layer.gates_closed.add(gates, 1 << 20);
                    layer.down_zeros.add(inputs, 1 << 20);
                }
                assert!(rechoose(&model, kernels, &go_on));
                assert_eq!(packings(), expected, "{} at {shares:?}", kernels.name);
            }
        }
    }

    #[test]
    fn nothing_is_waited_for_where_nothing_can_change() {
        let at_once = || panic!("there is nothing to wait for");
        for kernels in testing::runnable() {
            let model = testing::model();
            look_again(Arc::clone(&model), kernels, &AtomicBool::new(false), at_once);
            if let Some(rows) = kernels.packing() {
                model.repack(None, &rows.into(), &AtomicBool::new(false)).unwrap();
                look_again(Arc::clone(&model), kernels, &AtomicBool::new(true), at_once);
            }
        }
    }

    #[test]
    fn looking_ends_with_the_model_or_when_told() {
        for (kernels, rows, ..) in testing::skipping() {
            let (go_on, mut looks) = (AtomicBool::new(false), 0);
            let packed = || {
                let model = testing::model();
                model.repack(None, &rows.into(), &go_on).unwrap();
                model
            };
            let mut held = Some(packed());
            look_again(Arc::clone(held.as_ref().unwrap()), kernels, &go_on, || {
                looks += 1;
                held = held.take().filter(|_| looks < 3);
            });
            let held = packed();
            look_again(Arc::clone(&held), kernels, &go_on, || {
                looks += 1;
                go_on.store(looks == 5, Ordering::Relaxed);
            });
            assert_eq!(looks, 5, "{}: 3 while it is held, 2 until told", kernels.name);
        }
    }
}
