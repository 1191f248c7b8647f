//! The OpenAI API: `/v1/chat/completions` and `/v1/completions`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::{FinishReason, Stats};
use crate::text::Message;

use super::body::{JsonObject, Place, json_response};
use super::error::ApiError;
use super::generate::{End, Format, Generation, Prompt, Token, sse, timings};
use super::logprobs::{Entries, Form, Unsent};
use super::options::{Defaults, Options};
use super::prompt::read_prompt;
use super::state::App;
use super::{FINGERPRINT, random_u64};

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
}

async fn chat(State(app): State<Arc<App>>, body: JsonObject) -> Result<Response, ApiError> {
    let prompt = Prompt::Chat(read_messages(&body)?);
    answer(&app, Asked::read(Kind::Chat, prompt, body)?).await
}

async fn completions(State(app): State<Arc<App>>, body: JsonObject) -> Result<Response, ApiError> {
    let prompt = read_prompt(&body)?;
    answer(&app, Asked::read(Kind::Text, prompt, body)?).await
}

/// A checked request.
struct Asked {
    kind: Kind,
    prompt: Prompt,
    place: Place,
    options: Options,
    model: Option<String>,
    include_usage: bool,
}

#[derive(Deserialize)]
struct Common {
    model: Option<String>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Asked {
    /// Consumes the body: a request that waits in the queue must not hold megabytes of ignored fields.
    fn read(kind: Kind, prompt: Prompt, body: JsonObject) -> Result<Self, ApiError> {
        let Common { model, stream_options } = body.read()?;
        let include_usage = stream_options.unwrap_or_default().include_usage.unwrap_or(false);
        let options = Options::read(&body, &Defaults::LLAMA, Some(kind.form()))?;
        Ok(Asked {
            kind,
            prompt,
            place: body.into_place(),
            options,
            model,
            include_usage,
        })
    }
}

async fn answer(app: &App, asked: Asked) -> Result<Response, ApiError> {
    let Asked {
        kind,
        prompt,
        place,
        options,
        model,
        include_usage,
    } = asked;
    let loaded = app.loaded()?;
    loaded.check_name(model.as_deref())?;
    let stream = options.stream;
    let unsent = options
        .logprobs
        .map(|_| Unsent::new(kind.form(), loaded.tokenizer.clone()));
    let generation = Generation::start(app, &loaded, prompt, place, options).await?;
    let mut writer = Writer::new(kind, loaded.id.clone(), include_usage, unsent);
    if stream {
        return Ok(generation.stream(writer));
    }
    let output = generation.collect().await?;
    let text = output.text;
    let content = match kind {
        Kind::Chat => Field::Message(json!({"role": "assistant", "content": text, "refusal": null})),
        Kind::Text => Field::Text(text),
    };
    let logprobs = writer.unsent.as_mut();
    let logprobs = logprobs.map(|unsent| unsent.take_all(&output.tokens, output.logprobs));
    let response = Answer {
        usage: Some(usage(&output.stats)),
        timings: Some(timings(&output.stats)),
        ..writer.answer(kind.object(), vec![Choice::new(content, logprobs, Some(output.reason))])
    };
    Ok(json_response(StatusCode::OK, &response))
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<WireMessage>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of content parts is needed")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

fn read_messages(body: &JsonObject) -> Result<Vec<Message>, ApiError> {
    let chat: Chat = body.read()?;
    if chat.messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty: send at least one"));
    }
    chat.messages
        .into_iter()
        .enumerate()
        .map(|(i, message)| read_message(i, message))
        .collect()
}

fn read_message(index: usize, message: WireMessage) -> Result<Message, ApiError> {
    let refuse = |field: &str, message: String| {
        let field = format!("messages[{index}].{field}");
        Err(ApiError::invalid(&field, format!("`{field}` {message}")))
    };
    let role = match message.role.as_str() {
        "system" | "user" | "assistant" | "tool" => message.role,
        // The newer name of the same role.
        "developer" => "system".to_owned(),
        other => return refuse("role", format!("is `{other}`: use system, user, assistant or tool")),
    };
    if message.tool_calls.is_some_and(|calls| !calls.is_empty()) {
        return refuse("tool_calls", "is not supported by this server: leave it out".to_owned());
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut texts = String::new();
            for part in parts {
                match (part.r#type.as_str(), part.text) {
                    ("text", Some(text)) => texts.push_str(&text),
                    ("text", None) => return refuse("content", "has a text part without `text`".to_owned()),
                    (other, _) => return refuse("content", format!("has a part of type `{other}`: use text only")),
                }
            }
            texts
        }
        None => return refuse("content", "is missing: a string is needed".to_owned()),
    };
    Ok(Message { role, content })
}

/// Which of the two endpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Text,
}

impl Kind {
    fn form(self) -> Form {
        match self {
            Kind::Chat => Form::Chat,
            Kind::Text => Form::Text,
        }
    }

    fn object(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion",
            Kind::Text => "text_completion",
        }
    }

    /// The object name of one event of a stream.
    fn chunk_object(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        }
    }
}

/// Writes responses and events that all carry the same id.
struct Writer {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    /// Where the request asks for log-probabilities.
    unsent: Option<Unsent>,
}

impl Writer {
    fn new(kind: Kind, model: String, include_usage: bool, unsent: Option<Unsent>) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        let id = format!("{prefix}-{:016x}{:016x}", random_u64(), random_u64());
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Writer {
            kind,
            id,
            created,
            model,
            include_usage,
            unsent,
        }
    }

    fn answer(&self, object: &'static str, choices: Vec<Choice>) -> Answer<'_> {
        Answer {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: None,
            timings: None,
        }
    }

    fn chunk(&self, choices: Vec<Choice>) -> Answer<'_> {
        Answer {
            usage: self.include_usage.then_some(Value::Null),
            ..self.answer(self.kind.chunk_object(), choices)
        }
    }

    fn text_chunk(&mut self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let content = match self.kind {
            Kind::Chat => Field::Delta(json!({"content": text})),
            Kind::Text => Field::Text(text.to_owned()),
        };
        let logprobs = self.unsent.as_mut().and_then(|unsent| unsent.take_with(text).some());
        sse(&self.chunk(vec![Choice::new(content, logprobs, None)]))
    }
}

impl Format for Writer {
    fn begin(&mut self) -> String {
        match self.kind {
            Kind::Chat => {
                let role = json!({"role": "assistant", "content": ""});
                sse(&self.chunk(vec![Choice::new(Field::Delta(role), None, None)]))
            }
            Kind::Text => String::new(),
        }
    }

    fn token(&mut self, Token { id, text, logprobs }: Token) -> String {
        if let Some((unsent, logprobs)) = self.unsent.as_mut().zip(logprobs) {
            unsent.add(id, logprobs);
        }
        self.text_chunk(&text)
    }

    fn end(&mut self, end: &End) -> String {
        let mut events = self.text_chunk(&end.text);
        let nothing = match self.kind {
            Kind::Chat => Field::Delta(json!({})),
            Kind::Text => Field::Text(String::new()),
        };
        let logprobs = self.unsent.as_mut().and_then(|unsent| unsent.take_rest().some());
        events += &sse(&Answer {
            timings: Some(timings(&end.stats)),
            ..self.chunk(vec![Choice::new(nothing, logprobs, Some(end.reason))])
        });
        if self.include_usage {
            events += &sse(&Answer {
                usage: Some(usage(&end.stats)),
                ..self.chunk(Vec::new())
            });
        }
        events + "data: [DONE]\n\n"
    }
}

/// A response, or one event of a stream.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Value>,
}

/// The only choice.
#[derive(Serialize)]
struct Choice {
    index: u32,
    #[serde(flatten)]
    content: Field,
    logprobs: Option<Entries>,
    finish_reason: Option<&'static str>,
}

/// The field that differs between endpoints.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Field {
    Message(Value),
    Delta(Value),
    Text(String),
}

impl Choice {
    /// With the reason when it is the end.
    fn new(content: Field, logprobs: Option<Entries>, reason: Option<FinishReason>) -> Self {
        let finish_reason = reason.map(|reason| match reason {
            FinishReason::Eos | FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
        Choice {
            index: 0,
            content,
            logprobs,
            finish_reason,
        }
    }
}

fn usage(stats: &Stats) -> Value {
    let &Stats {
        prompt_tokens,
        generated_tokens,
        ..
    } = stats;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated_tokens,
        "total_tokens": prompt_tokens + generated_tokens,
    })
}
