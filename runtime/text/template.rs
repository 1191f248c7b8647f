//! Chat templates: the Jinja text in the file, rendered as Hugging Face's `apply_chat_template` does.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::{Message, Tokenizer};
use crate::model::gguf::{Gguf, GgufError};

/// Longest source: published templates have a few kilobytes.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// Instructions that one rendering may take: a chat of thousands of messages takes a hundredth of it.
const FUEL: u64 = 20_000_000;
/// Bytes that one rendering may write.
const OUTPUT_BYTES_MAX: usize = 1 << 26;

/// Why there is no chat template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The file has none.
    #[error(
        "the model has no chat template: give one with --chat-template, or send plain prompts to /v1/completions or /completion"
    )]
    None,
    /// The file's is not a string.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// It is not valid Jinja.
    #[error("the chat template is not valid: {0}")]
    Syntax(String),
}

/// The model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template of a model file, or `source` instead of it.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer, source: Option<&str>) -> Result<ChatTemplate, TemplateError> {
        let source = match source {
            Some(source) => source,
            None => gguf
                .get::<&str>("tokenizer.chat_template")?
                .ok_or(TemplateError::None)?,
        };
        let text = |id| tokenizer.special_text(id);
        ChatTemplate::new(source, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// A template from its source; `bos_token` and `eos_token` are texts that it may write.
    pub fn new(source: &str, bos_token: String, eos_token: String) -> Result<ChatTemplate, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the default delimiters"));
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        if source.len() > SOURCE_BYTES_MAX {
            return Err(TemplateError::Syntax(format!(
                "it is longer than {SOURCE_BYTES_MAX} bytes"
            )));
        }
        Ok(ChatTemplate {
            environment: compile(environment, source.to_owned())?,
            bos_token,
            eos_token,
        })
    }

    /// The prompt text of a chat, ready to be encoded with `special = true` (and `bos = true`: the BOS text that the
    /// template wrote is not doubled). The error is a sentence.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, String> {
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let values = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            tools => (),
            documents => (),
        };
        let mut out = Bounded(Vec::new());
        let template = self
            .environment
            .get_template("chat")
            .map_err(|error| describe(&error))?;
        match template.render_captured_to(values, &mut out) {
            Ok(_) => String::from_utf8(out.0).map_err(|error| error.to_string()),
            Err(error) => Err(format!("the chat template failed: {}", describe(&error))),
        }
    }
}

/// The environment with its template. The parser recurses, as deep as a hostile source wants: on a stack that holds
/// the deepest nesting of [`SOURCE_BYTES_MAX`] bytes many times over, and of which nothing is touched until then.
fn compile(mut environment: Environment<'static>, source: String) -> Result<Environment<'static>, TemplateError> {
    const STACK_BYTES: usize = 256 << 20;
    let failed = |error: std::io::Error| TemplateError::Syntax(format!("no thread to read it on: {error}"));
    let compiling = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        environment
            .add_template_owned("chat", source)
            .map_err(|error| TemplateError::Syntax(describe(&error)))?;
        Ok(environment)
    });
    let done = compiling.map_err(failed)?.join();
    done.unwrap_or_else(|_| Err(TemplateError::Syntax("its parser gave up".to_owned())))
}

/// The innermost message: a template's own words where it raised an exception.
fn describe(error: &Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
        ErrorKind::WriteFailure => format!("it writes more than {OUTPUT_BYTES_MAX} bytes"),
        _ => match (error.detail(), error.line()) {
            (Some(detail), Some(line)) => format!("{detail} (line {line})"),
            (Some(detail), None) => detail.to_owned(),
            (None, _) => error.to_string(),
        },
    }
}

/// `raise_exception(message)`, with which templates refuse a chat.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `strftime_now(format)`: the time now, in UTC.
fn strftime_now(format: String) -> Result<String, Error> {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// A buffer that refuses to grow past [`OUTPUT_BYTES_MAX`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(messages: &[(&str, &str)]) -> Vec<Message> {
        let message = |&(role, content): &(&str, &str)| Message {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        messages.iter().map(message).collect()
    }

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, String> {
        let template = ChatTemplate::new(source, "<s>".to_owned(), "</s>".to_owned()).map_err(|e| e.to_string())?;
        template.render(&chat(messages), true)
    }

    /// The template of BitNet-b1.58-2B-4T.
    const BITNET: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] \
        | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content \
        %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

    #[test]
    fn deep_nesting_is_compiled_or_refused_and_ends_nothing() {
        let new = |source: &str| ChatTemplate::new(source, String::new(), String::new());
        for deep in [
            format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
            format!("{{{{ {}1{} }}}}", "(".repeat(30_000), ")".repeat(30_000)),
            format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(5_000)),
            format!("{{{{ x{} }}}}", ".b".repeat(30_000)),
        ] {
            let _ = new(&deep).map(|template| template.render(&[], false));
        }
        let long = new(&"x".repeat(SOURCE_BYTES_MAX + 1)).unwrap_err();
        assert!(long.to_string().contains("longer than"), "{long}");
    }

    #[test]
    fn bitnet_2b_4t() {
        assert_eq!(
            render(
                BITNET,
                &[("system", "Be brief."), ("user", " Hi \n"), ("assistant", "Yes?")]
            )
            .unwrap(),
            "<s>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: Yes?<|eot_id|>Assistant: "
        );
    }

    #[test]
    fn python_and_blocks() {
        let source = "{% for m in messages %}\n  {% if m.content.startswith('!') %}\n{{ m.role.upper() }}{% continue %}\n  {% endif %}\n\
            {{ m['content'].strip() }};\n{% endfor %}{% if tools is not none %}tools{% endif %}{{ {'a': messages[0].role} | tojson }}";
        assert_eq!(
            render(source, &[("user", " a "), ("user", "!")]).unwrap(),
            "a;\nUSER{\"a\": \"user\"}"
        );
        let year = render("{{ strftime_now('%Y') }}", &[]).unwrap();
        assert!(year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()), "{year}");
    }

    #[test]
    fn errors_are_sentences() {
        let failed = |source| render(source, &[]).unwrap_err();
        assert_eq!(
            failed("{{ raise_exception('roles must alternate') }}"),
            "the chat template failed: roles must alternate (line 1)"
        );
        assert!(
            failed("{% if %}").starts_with("the chat template is not valid: "),
            "{}",
            failed("{% if %}")
        );
        assert!(failed("{{ strftime_now('%') }}").contains("strftime_now"));
        assert!(failed("{{ messages[0].role.x.y }}").starts_with("the chat template failed: "));
    }

    #[test]
    fn hostile_templates_end() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(endless, &[]).unwrap_err().contains("steps"));
        let long = "{% set x = 'x' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}";
        assert!(render(long, &[]).unwrap_err().contains("bytes"));
    }

    #[test]
    fn recursion_without_end_is_an_error() {
        let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
        assert!(render(deep, &[]).is_err());
    }
}
