//! The chat of `sterna run` at a terminal: messages and commands with line editing, answers that Ctrl-C stops.
//!
//! Where the chat template only joins the messages, or there is none, the model is a base model: it continues a text
//! rather than answers. Then every message is a text of its own, and an empty one lets the model go on.

use std::io::{self, IsTerminal};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use tokio::signal::unix::{SignalKind, signal};

use super::common::CommandError;
use super::run::{Answer, generate, show};
use super::warnings::Hold;
use crate::engine::{Engine, FinishReason, Request, Sampling, SubmitError};
use crate::text::{ChatTemplate, Message, Tokenizer};

/// What the model is, and how it answers.
pub struct Chat<'a> {
    /// The engine, with room for one request and another that waits for the first to be cancelled.
    pub engine: &'a Engine,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// `None` for a model without one.
    pub template: Option<ChatTemplate>,
    /// How every answer is made; its prompt is not used.
    pub request: Request,
}

const HELP: &str = "Commands:
  /set              show how answers are made
  /set NAME VALUE   change it: temperature, top_k, top_p, min_p, seed or max_tokens
  /clear            forget what was said
  /help             show this
  /bye              leave, as Ctrl-D does

A line that ends in \\ goes on in the next one, and so does all between \"\"\" and \"\"\".
Ctrl-C stops an answer. Up and down, or Ctrl-R, bring back what was entered.
";

/// Tokens after which a base model stops, which does not know when it is done.
const CONTINUATION_TOKENS: usize = 128;

/// Something that was entered.
#[derive(Debug, PartialEq)]
enum Input {
    Message(String),
    Help,
    Clear,
    Bye,
    Settings,
    Set {
        name: String,
        value: String,
    },
    /// A line that begins like a command and is none.
    Unknown(String),
}

impl Input {
    /// Reads what the editor returns.
    fn parse(entered: &str) -> Input {
        if let Some(block) = entered.trim().strip_prefix(QUOTES) {
            let block = block.strip_suffix(QUOTES).unwrap_or(block);
            return Input::Message(block.strip_prefix('\n').unwrap_or(block).to_owned());
        }
        // A text may well begin with a slash: a path, a comment. A command is one word of letters.
        let mut words = entered.split_whitespace();
        let command = words.next().and_then(|word| word.strip_prefix('/'));
        match (command, words.next(), words.next(), words.next()) {
            (Some("help" | "?"), None, ..) => Input::Help,
            (Some("clear"), None, ..) => Input::Clear,
            (Some("bye" | "exit" | "quit"), None, ..) => Input::Bye,
            (Some("set"), None, ..) => Input::Settings,
            (Some("set"), Some(name), Some(value), None) => Input::Set {
                name: name.to_owned(),
                value: value.to_owned(),
            },
            (Some(word), ..) if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic()) => {
                Input::Unknown(entered.trim().to_owned())
            }
            _ => Input::Message(entered.replace("\\\n", "\n")),
        }
    }
}

const QUOTES: &str = "\"\"\"";

/// Whether Enter ends the input, or adds a line to it.
fn is_complete(entered: &str) -> bool {
    match entered.trim_start().strip_prefix(QUOTES) {
        Some(block) => block.trim_end().ends_with(QUOTES),
        None => !entered.ends_with('\\'),
    }
}

/// Tells the editor where an input ends.
struct Lines;

impl Helper for Lines {}

impl Highlighter for Lines {}

impl Completer for Lines {
    type Candidate = String;
}

impl Hinter for Lines {
    type Hint = String;
}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Chat<'_> {
    /// Talks until Ctrl-D or `/bye`.
    pub fn run(mut self) -> Result<(), CommandError> {
        self.request.sampling.validate().map_err(SubmitError::from)?;
        let base = self.is_base()?;
        if base {
            self.request.max_tokens.get_or_insert(CONTINUATION_TOKENS);
            note("A base model: it continues what you write. An empty line lets it go on; /help shows the rest.");
        } else {
            note("Write a message and press Enter; /help shows what else there is.");
        }
        let mut editor: Editor<Lines, DefaultHistory> = Editor::new().map_err(terminal)?;
        editor.set_helper(Some(Lines));
        let mut talk = match base {
            true => Talk::Text(Vec::new()),
            false => Talk::Messages(Vec::new()),
        };
        // The screen is the chat's until it ends.
        let warnings = Hold::begin();
        loop {
            warnings.show();
            let entered = match editor.readline("> ") {
                Ok(entered) => entered,
                Err(ReadlineError::Interrupted) => {
                    note("(/bye or Ctrl-D leaves)");
                    continue;
                }
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(terminal(error)),
            };
            if !entered.trim().is_empty() {
                editor.add_history_entry(entered.as_str()).map_err(terminal)?;
            }
            match Input::parse(&entered) {
                Input::Bye => return Ok(()),
                Input::Help => show(HELP)?,
                Input::Clear => talk.clear(),
                Input::Settings => show(&settings(&self.request))?,
                Input::Set { name, value } => match set(&mut self.request, &name, &value) {
                    Ok(()) => show(&settings(&self.request))?,
                    Err(sentence) => note(&sentence),
                },
                Input::Unknown(line) => note(&format!("{line} is no command; /help shows those that are")),
                Input::Message(text) => self.answer(&mut talk, text)?,
            }
        }
    }

    /// True when a message would be given to the model just as it is.
    fn is_base(&self) -> Result<bool, CommandError> {
        let Some(template) = &self.template else {
            return Ok(true);
        };
        let text = "text";
        let rendered = template.render(&[message("user", text.to_owned())], true);
        let rendered = rendered.map_err(CommandError::Render)?;
        Ok(self.tokenizer.encode(&rendered, true, true) == self.tokenizer.encode(text, true, true))
    }

    fn answer(&mut self, talk: &mut Talk, text: String) -> Result<(), CommandError> {
        match talk {
            Talk::Messages(_) if text.trim().is_empty() => return Ok(()),
            Talk::Messages(messages) => messages.push(message("user", text)),
            Talk::Text(tokens) if text.trim().is_empty() => {
                if tokens.is_empty() {
                    return Ok(());
                }
            }
            Talk::Text(tokens) => *tokens = self.tokenizer.encode(&text, true, true),
        }
        loop {
            let prompt = match talk {
                Talk::Text(tokens) => tokens.clone(),
                Talk::Messages(messages) => {
                    let template = self.template.as_ref().expect("not a base model");
                    let text = template.render(messages, true).map_err(CommandError::Render)?;
                    self.tokenizer.encode(&text, true, true)
                }
            };
            let request = Request {
                prompt,
                ..self.request.clone()
            };
            match self.generate(request) {
                Ok(answer) => {
                    talk.take(answer);
                    return Ok(());
                }
                Err(CommandError::Submit(SubmitError::PromptTooLong { .. })) if talk.forget_oldest() => {
                    note("(the oldest messages no longer fit into the context and are forgotten)");
                }
                Err(error @ CommandError::Submit(_)) => {
                    talk.clear();
                    note(&format!("{error}; the chat begins anew"));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Prints an answer as it comes, up to its end or Ctrl-C, and a line about it.
    fn generate(&self, request: Request) -> Result<Answer, CommandError> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().build()?;
        // From the first answer on, the signal no longer ends the program: at the prompt it comes as a key.
        let interrupted = async {
            match signal(SignalKind::interrupt()) {
                Ok(mut signal) => drop(signal.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        let answer = runtime.block_on(generate(self.engine, request, interrupted, show))?;
        show("\n")?;
        let end = match answer.reason {
            None => ", stopped",
            Some(FinishReason::Length) => ", cut at its greatest length",
            Some(FinishReason::Eos | FinishReason::Stop) => "",
        };
        let (tokens, speed) = (answer.tokens.len(), answer.tokens_per_s());
        note(&format!("[{tokens} tokens, {speed:.1} tokens/s{end}]"));
        Ok(answer)
    }
}

/// What was said so far.
enum Talk {
    Messages(Vec<Message>),
    /// The text that a base model goes on with.
    Text(Vec<u32>),
}

impl Talk {
    fn clear(&mut self) {
        match self {
            Talk::Messages(messages) => messages.clear(),
            Talk::Text(tokens) => tokens.clear(),
        }
    }

    fn take(&mut self, answer: Answer) {
        match self {
            Talk::Messages(messages) => messages.push(message("assistant", answer.text)),
            Talk::Text(tokens) => tokens.extend(answer.tokens),
        }
    }

    /// Drops the first message and its answer, if a later message remains.
    fn forget_oldest(&mut self) -> bool {
        match self {
            Talk::Messages(messages) if messages.len() > 2 => {
                messages.drain(..2);
                true
            }
            _ => false,
        }
    }
}

fn message(role: &str, content: String) -> Message {
    Message {
        role: role.to_owned(),
        content,
    }
}

/// One line for each thing that `/set` changes.
fn settings(request: &Request) -> String {
    let Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
    } = request.sampling;
    let longest = request
        .max_tokens
        .map_or("up to the context's end".to_owned(), |n| n.to_string());
    format!(
        "  temperature {temperature}\n  top_k       {top_k}\n  top_p       {top_p}\n  min_p       {min_p}\n  \
         seed        {seed}\n  max_tokens  {longest}\n"
    )
}

/// Changes one of them; the error is a sentence.
fn set(request: &mut Request, name: &str, value: &str) -> Result<(), String> {
    fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
        value
            .parse()
            .map_err(|_| format!("{value} is not a number for this setting"))
    }
    let mut changed = request.clone();
    let Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
    } = &mut changed.sampling;
    match name {
        "temperature" => *temperature = number(value)?,
        "top_k" => *top_k = number(value)?,
        "top_p" => *top_p = number(value)?,
        "min_p" => *min_p = number(value)?,
        "seed" => *seed = number(value)?,
        "max_tokens" => changed.max_tokens = Some(number(value)?),
        _ => return Err(format!("there is no {name} to set; /set shows what there is")),
    }
    changed.sampling.validate().map_err(|error| error.to_string())?;
    *request = changed;
    Ok(())
}

/// A line that is not the model's, dim where that is wanted.
fn note(text: &str) {
    let plain = !io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match plain {
        true => eprintln!("{text}"),
        false => eprintln!("\x1b[2m{text}\x1b[0m"),
    }
}

fn terminal(error: ReadlineError) -> CommandError {
    match error {
        ReadlineError::Io(error) => error.into(),
        error => io::Error::other(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_single_words_after_a_slash() {
        assert_eq!(Input::parse("/help"), Input::Help);
        assert_eq!(Input::parse(" /clear "), Input::Clear);
        assert_eq!(Input::parse("/set"), Input::Settings);
        let (name, value) = ("seed".to_owned(), "7".to_owned());
        assert_eq!(Input::parse("/set seed 7"), Input::Set { name, value });
        for no_command in ["/sett", "/set seed", "/help me"] {
            assert_eq!(Input::parse(no_command), Input::Unknown(no_command.to_owned()));
        }
        for text in ["/// A function", "/etc/hosts is", "// help", "help", "", "/"] {
            assert_eq!(Input::parse(text), Input::Message(text.to_owned()));
        }
    }

    #[test]
    fn inputs_of_several_lines() {
        for (entered, text) in [
            ("fn main() {\\\n    let", "fn main() {\n    let"),
            ("\"\"\"\nfn main() {\n\"\"\"", "fn main() {\n"),
            ("\"\"\"/help\"\"\"", "/help"),
        ] {
            assert!(is_complete(entered), "{entered}");
            assert_eq!(Input::parse(entered), Input::Message(text.to_owned()));
        }
        for entered in ["fn main() {\\", "\"\"\"", "\"\"\"\nfn", "\"\"\"\na \"\"\" b"] {
            assert!(!is_complete(entered), "{entered}");
        }
    }

    #[test]
    fn settings_change_within_their_range() {
        let mut request = Request {
            prompt: Vec::new(),
            sampling: Sampling::greedy(),
            max_tokens: None,
            stop: Vec::new(),
            ignore_eos: false,
            logprobs: None,
        };
        for (name, value) in [
            ("temperature", "0.7"),
            ("top_k", "5"),
            ("seed", "9"),
            ("max_tokens", "64"),
        ] {
            set(&mut request, name, value).unwrap();
        }
        assert_eq!((request.sampling.temperature, request.sampling.top_k), (0.7, 5));
        assert_eq!((request.sampling.seed, request.max_tokens), (9, Some(64)));
        for (name, value, says) in [
            ("temperature", "nan", "temperature must be"),
            ("top_p", "2", "top_p must be"),
            ("seed", "-1", "-1 is not a number"),
            ("colour", "red", "no colour to set"),
        ] {
            let before = settings(&request);
            assert!(set(&mut request, name, value).unwrap_err().contains(says), "{name}");
            assert_eq!(settings(&request), before);
        }
    }

    #[test]
    fn the_oldest_messages_are_forgotten_in_pairs_and_the_last_never() {
        let mut talk = Talk::Messages(["a", "b", "c"].map(|text| message("user", text.to_owned())).into());
        assert!(talk.forget_oldest());
        assert!(matches!(&talk, Talk::Messages(left) if left.len() == 1 && left[0].content == "c"));
        assert!(!talk.forget_oldest());
        assert!(!Talk::Text(vec![1, 2, 3]).forget_oldest());
    }
}
