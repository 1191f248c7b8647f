//! The engine's thread: which rows go into the next pass, and what their logits become.
//!
//! Requests are admitted first come first served, up to as many at once as there are caches. Every pass feeds
//! the next token of each sequence that is generating, so that nobody starves, and adds prompts, oldest first: as much
//! as the batch holds, or a small piece when others wait for that pass. While nobody's prompt is in the way, a few sequences add
//! guesses at their next tokens ([`super::speculate`]).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::forward::{Forward, Lost, NonFinite, Output, Row};
use super::head::Need;
use super::kv::KvCache;
use super::logprobs::Logprobs;
use super::sampling::Sampler;
use super::speculate::{self, Costs, Lookup, Speculation};
use super::{EngineConfig, Event, Failure, FinishReason, Request, Stats, SubmitError};
use crate::text::{Piece, StreamDecoder, Tokenizer};

/// Most prompt rows in a pass that others wait in for their next token: enough for the matrix product to work near
/// its best, and few enough for their streams not to stutter.
const PROMPT_ROWS_BESIDE: usize = 64;

/// What the engine's thread and its callers share.
pub struct Shared {
    state: Mutex<State>,
    /// Signals a change of `state` to the engine's thread.
    changed: Condvar,
}

struct State {
    queue: VecDeque<Job>,
    /// Requests admitted and not ended.
    active: usize,
    /// Set once: no new requests, and the end of those that are here.
    stop_at: Option<Instant>,
    /// Why the engine cannot go on.
    broken: Option<String>,
}

struct Job {
    request: Request,
    events: UnboundedSender<Event>,
    submitted: Instant,
}

impl Shared {
    pub fn new() -> Self {
        Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                active: 0,
                stop_at: None,
                broken: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Queues a request, unless `most` are queued or active already.
    pub fn submit(&self, request: Request, events: UnboundedSender<Event>, most: usize) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if let Some(reason) = &state.broken {
            return Err(SubmitError::Broken { reason: reason.clone() });
        }
        if state.stop_at.is_some() {
            return Err(SubmitError::Stopping);
        }
        if state.queue.len() + state.active >= most {
            // Those whose caller has gone do not count.
            state.queue.retain(|job| !job.events.is_closed());
            if state.queue.len() + state.active >= most {
                let waiting = state.queue.len();
                return Err(SubmitError::QueueFull { waiting });
            }
        }
        state.queue.push_back(Job {
            request,
            events,
            submitted: Instant::now(),
        });
        self.changed.notify_one();
        Ok(())
    }

    /// Takes no more requests, and ends those that are here at `stop_at` at the latest.
    pub fn stop(&self, stop_at: Instant) {
        let mut state = self.lock();
        state.stop_at = Some(state.stop_at.map_or(stop_at, |earlier| earlier.min(stop_at)));
        self.changed.notify_one();
    }

    /// Requests that wait, and requests that are active.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.len(), state.active)
    }

    pub fn healthy(&self) -> bool {
        self.lock().broken.is_none()
    }

    /// A panic elsewhere cannot leave the state half-changed: every change is a single step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being worked on.
struct Sequence {
    /// Prompt and what was generated so far.
    tokens: Vec<u32>,
    /// How many of them are in the cache.
    fed: usize,
    /// Length at which it ends.
    longest: usize,
    cache: usize,
    /// Its rows in the current pass, guesses included.
    rows: Range<usize>,
    lookup: Lookup,
    /// How many of its rows are guesses: the last ones.
    guessed: usize,
    ignore_eos: bool,
    logprobs: Option<usize>,
    sampler: Sampler,
    stream: StreamDecoder,
    events: UnboundedSender<Event>,
    stats: Stats,
    /// Its admission, or its last token.
    since: Instant,
}

impl Sequence {
    /// True until its first token is chosen.
    fn in_prompt(&self) -> bool {
        self.stats.generated_tokens == 0
    }

    /// What it needs of the logits of each row that a token may follow.
    fn need(&self) -> Need {
        match self.logprobs {
            Some(_) => Need::All,
            None => self.sampler.need(),
        }
    }

    /// A send fails when the receiver is gone, and then nobody misses the event.
    fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Takes the results of a pass: the next token, if the pass reached the end of what there was, and those after it while the
    /// pass has guessed right. True = it is over.
    fn advance(&mut self, output: &Output<'_>, tokenizer: &Tokenizer) -> bool {
        let certain = self.rows.start..self.rows.end - self.guessed;
        if let Some(NonFinite) = certain.clone().find_map(|row| output.check(row).err()) {
            return self.fail(NonFinite);
        }
        if certain.is_empty() || self.fed < self.tokens.len() {
            return false;
        }
        self.stats.guessed_tokens += self.guessed;
        let known = self.tokens.len();
        let mut over = self.take(output, certain.end - 1, tokenizer);
        for (row, i) in (certain.end..self.rows.end).zip(0..) {
            // A row counts when its token is the one that was chosen. What a wrong one left in the cache is written again before
            // anything looks at it.
            if over || self.tokens.last() != self.lookup.guess().get(i) {
                break;
            }
            self.fed += 1;
            self.stats.right_tokens += 1;
            over = self.take(output, row, tokenizer);
        }
        self.lookup.learn(&self.tokens[known..]);
        over
    }

    /// Chooses the token that follows a row. True = it is over.
    fn take(&mut self, output: &Output<'_>, row: usize, tokenizer: &Tokenizer) -> bool {
        let logits = match output.logits(row) {
            Ok(logits) => logits,
            Err(error) => return self.fail(error),
        };
        let id = self.sampler.sample(logits);
        self.count_time();
        if tokenizer.is_eog(id) && !self.ignore_eos {
            self.done(FinishReason::Eos);
            return true;
        }
        self.tokens.push(id);
        self.stats.generated_tokens += 1;
        let Piece { text, stopped } = self.stream.push(tokenizer.token_bytes(id, false));
        let logprobs = self.logprobs.map(|top| Logprobs::new(logits.all(), id, top));
        self.send(Event::Token { id, text, logprobs });
        let reason = match (stopped, self.tokens.len() >= self.longest) {
            (true, _) => FinishReason::Stop,
            (false, true) => FinishReason::Length,
            (false, false) => return false,
        };
        self.done(reason);
        true
    }

    /// It is over, and why.
    fn fail(&self, error: NonFinite) -> bool {
        self.send(Event::Failed(error.into()));
        true
    }

    /// Adds the time since the last token, or since admission, to the phase that it belongs to.
    fn count_time(&mut self) {
        let now = Instant::now();
        let phase = if self.in_prompt() {
            &mut self.stats.prefill_ms
        } else {
            &mut self.stats.decode_ms
        };
        *phase += milliseconds(self.since, now);
        self.since = now;
    }

    fn done(&mut self, reason: FinishReason) {
        let Piece { text, stopped } = self.stream.clone().finish();
        let reason = if stopped { FinishReason::Stop } else { reason };
        let stats = self.stats;
        self.send(Event::Done { reason, text, stats });
    }
}

pub struct Scheduler {
    shared: Arc<Shared>,
    forward: Forward,
    tokenizer: Arc<Tokenizer>,
    context: usize,
    /// Most rows in a pass.
    batch: usize,
    caches: Vec<KvCache>,
    free_caches: Vec<usize>,
    /// In the order of their admission.
    active: Vec<Sequence>,
    /// Rows of the current pass.
    rows: Vec<Row>,
    speculation: Speculation,
    costs: Costs,
}

impl Scheduler {
    /// `caches`: one for each of `config.parallel` sequences, with room for `config.context`.
    pub fn new(
        shared: Arc<Shared>,
        forward: Forward,
        tokenizer: Arc<Tokenizer>,
        caches: Vec<KvCache>,
        config: &EngineConfig,
    ) -> Self {
        Scheduler {
            context: config.context,
            batch: config.batch.max(config.parallel),
            free_caches: (0..caches.len()).rev().collect(),
            caches,
            active: Vec::new(),
            rows: Vec::new(),
            speculation: config.speculation,
            costs: Costs::default(),
            shared,
            forward,
            tokenizer,
        }
    }

    /// Serves requests until the engine is stopped; an error ends it early.
    pub fn run(&mut self) -> Result<(), Lost> {
        while self.admit() {
            self.plan();
            self.step()?;
        }
        Ok(())
    }

    /// Ends everything that is here, and whatever might still come, for one reason.
    pub fn fail_all(&mut self, failure: &Failure) {
        let mut state = self.shared.lock();
        if let Failure::Broken { reason } = failure {
            state.broken = Some(reason.clone());
        }
        state.active = 0;
        let waiting = state.queue.drain(..).map(|job| job.events);
        for events in waiting.chain(self.active.drain(..).map(|sequence| sequence.events)) {
            let _ = events.send(Event::Failed(failure.clone()));
        }
    }

    /// Admits waiting requests while there are caches, and sleeps while there is nothing to do. False = stop.
    fn admit(&mut self) -> bool {
        end_where(&mut self.active, &mut self.free_caches, |sequence| {
            sequence.events.is_closed()
        });
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            while let Some(&cache) = self.free_caches.last()
                && let Some(job) = state.queue.pop_front()
            {
                if let Some(sequence) = self.begin(job, cache) {
                    self.free_caches.pop();
                    self.active.push(sequence);
                }
            }
            state.active = self.active.len();
            let stopping = state.stop_at.is_some();
            let time_is_up = state.stop_at.is_some_and(|stop_at| Instant::now() >= stop_at);
            match self.active.is_empty() {
                true if stopping => return false,
                true => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                false => return !time_is_up,
            }
        }
    }

    /// Makes a sequence of a request, unless nobody waits for it or there is nothing to do.
    fn begin(&self, job: Job, cache: usize) -> Option<Sequence> {
        let Job {
            request,
            events,
            submitted,
        } = job;
        if events.is_closed() {
            return None;
        }
        let now = Instant::now();
        let prompt_tokens = request.prompt.len();
        let most = request.max_tokens.unwrap_or(usize::MAX);
        let longest = prompt_tokens.saturating_add(most).min(self.context);
        let mut tokens = request.prompt;
        // Nothing is allocated for a token but its event.
        tokens.reserve_exact(longest.saturating_sub(prompt_tokens));
        let mut sequence = Sequence {
            longest,
            tokens,
            fed: 0,
            cache,
            rows: 0..0,
            lookup: Lookup::new(),
            guessed: 0,
            ignore_eos: request.ignore_eos,
            logprobs: request.logprobs,
            sampler: Sampler::new(request.sampling, self.forward.model().config.vocab),
            stream: StreamDecoder::new(request.stop),
            events,
            stats: Stats {
                prompt_tokens,
                queue_ms: milliseconds(submitted, now),
                ..Stats::default()
            },
            since: now,
        };
        if most == 0 {
            sequence.done(FinishReason::Length);
            return None;
        }
        Some(sequence)
    }

    /// Chooses the rows of the next pass: at least one, as there is an active sequence.
    fn plan(&mut self) {
        self.rows.clear();
        let generating = self.active.iter().filter(|sequence| !sequence.in_prompt()).count();
        let mut for_prompts = self.batch - generating;
        if generating > 0 {
            for_prompts = for_prompts.min(PROMPT_ROWS_BESIDE);
        }
        let guesses = self.guesses_each(generating);
        // Of the pass so far, a row and a token for each sequence included.
        let (mut rows, mut expected) = (generating, generating as f64);
        for sequence in &mut self.active {
            // A sequence that generates has one token pending.
            let mut count = sequence.tokens.len() - sequence.fed;
            if sequence.in_prompt() {
                count = count.min(for_prompts);
                for_prompts -= count;
            }
            let first_row = self.rows.len();
            let positions = sequence.fed..sequence.fed + count;
            let last = sequence.need();
            self.rows.extend(positions.map(|position| Row {
                cache: sequence.cache,
                position,
                token: sequence.tokens[position],
                need: if position + 1 == sequence.tokens.len() {
                    last
                } else {
                    Need::None
                },
            }));
            sequence.fed += count;
            sequence.guessed = 0;
            sequence.lookup.clear();
            if guesses > 0 {
                // A guess is of use when a token may follow it.
                let room = sequence.longest - sequence.tokens.len() - 1;
                sequence.lookup.propose(&sequence.tokens, room.min(guesses));
                (sequence.guessed, expected) = match self.speculation {
                    Speculation::Always => (sequence.lookup.guess().len(), expected),
                    _ if !self.costs.allow() => (0, expected),
                    _ => sequence.lookup.worth(&self.costs, rows, expected),
                };
                rows += sequence.guessed;
                let guessed = &sequence.lookup.guess()[..sequence.guessed];
                self.rows
                    .extend(guessed.iter().zip(sequence.fed..).map(|(&token, position)| Row {
                        cache: sequence.cache,
                        position,
                        token,
                        need: last,
                    }));
            }
            sequence.rows = first_row..self.rows.len();
        }
    }

    /// Most guesses of each sequence, when `generating` of them are: none while a prompt waits.
    fn guesses_each(&self, generating: usize) -> usize {
        let few = (1..=speculate::SEQUENCES).contains(&generating) && generating == self.active.len();
        match self.speculation {
            Speculation::Never => 0,
            _ if !few => 0,
            _ => (self.batch.min(speculate::ROWS) / generating).saturating_sub(1),
        }
    }

    /// One pass, and its consequences for each sequence that had a row in it.
    fn step(&mut self) -> Result<(), Lost> {
        let began = Instant::now();
        let output = self.forward.pass(&mut self.caches, &self.rows)?;
        let tokenizer = &*self.tokenizer;
        let (generating, of_prompts) = (self.active.len(), self.active.iter().any(Sequence::in_prompt));
        let (mut guessed, mut right) = (0, 0);
        end_where(&mut self.active, &mut self.free_caches, |sequence| {
            let before = sequence.stats.right_tokens;
            let over = sequence.advance(&output, tokenizer);
            guessed += sequence.guessed;
            right += sequence.stats.right_tokens - before;
            over
        });
        if !of_prompts {
            self.costs
                .record(generating, guessed, right, began.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

/// Removes the sequences that are over, and frees their caches.
fn end_where(active: &mut Vec<Sequence>, free_caches: &mut Vec<usize>, mut over: impl FnMut(&mut Sequence) -> bool) {
    active.retain_mut(|sequence| {
        let over = over(sequence);
        if over {
            free_caches.push(sequence.cache);
        }
        !over
    });
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests;
