//! Log-probabilities of tokens: how each API asks for them, and the form in which they come back.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::engine::Logprobs;
use crate::text::{StreamDecoder, Tokenizer};

use super::body::JsonObject;
use super::error::ApiError;

/// Most alternatives of each token in OpenAI's APIs: of a chat, and of a completion.
const CHAT_MOST: usize = 20;
const TEXT_MOST: usize = 5;
/// The same in llama-server's, which knows no limit: a whole answer of them has to fit into memory.
const LLAMA_MOST: usize = 100;

/// The API that decides about both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenAI's chats: `logprobs` is true or false, `top_logprobs` a number.
    Chat,
    /// OpenAI's older completions: `logprobs` is a number.
    Text,
    /// llama-server's completions: `n_probs`.
    Llama,
}

#[derive(Deserialize)]
struct ChatFields {
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
}

#[derive(Deserialize)]
struct TextFields {
    logprobs: Option<Count>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number is needed")]
enum Count {
    Number(i64),
    /// As in chats: false is none.
    Flag(bool),
}

#[derive(Deserialize)]
struct LlamaFields {
    n_probs: Option<i64>,
}

impl Form {
    /// The fields that ask for log-probabilities.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Form::Chat => &["logprobs", "top_logprobs"],
            Form::Text => &["logprobs"],
            Form::Llama => &["n_probs"],
        }
    }

    /// How many alternatives of each token `body` asks for; `None` = no log-probabilities at all.
    pub fn read(self, body: &JsonObject) -> Result<Option<usize>, ApiError> {
        match self {
            Form::Chat => {
                let ChatFields { logprobs, top_logprobs } = body.read()?;
                let top = top_logprobs.map_or(Ok(0), |top| within("top_logprobs", top, CHAT_MOST))?;
                match logprobs {
                    Some(true) => Ok(Some(top)),
                    _ if top == 0 => Ok(None),
                    _ => Err(ApiError::invalid(
                        "top_logprobs",
                        "`top_logprobs` needs `logprobs`: send it as true",
                    )),
                }
            }
            Form::Text => match body.read::<TextFields>()?.logprobs {
                None | Some(Count::Flag(false)) => Ok(None),
                Some(Count::Number(top)) => within("logprobs", top, TEXT_MOST).map(Some),
                Some(Count::Flag(true)) => Err(ApiError::invalid(
                    "logprobs",
                    format!("`logprobs` is true: use a number from 0 to {TEXT_MOST} here"),
                )),
            },
            Form::Llama => {
                let top = body.read::<LlamaFields>()?.n_probs.unwrap_or(0);
                Ok(Some(within("n_probs", top, LLAMA_MOST)?).filter(|&top| top > 0))
            }
        }
    }
}

fn within(field: &str, value: i64, most: usize) -> Result<usize, ApiError> {
    match usize::try_from(value) {
        Ok(value) if value <= most => Ok(value),
        _ => Err(ApiError::invalid(
            field,
            format!("`{field}` is {value}: use a number from 0 to {most}"),
        )),
    }
}

/// Entries until their time comes: each goes with the first text that reaches beyond its token's beginning.
pub struct Unsent {
    form: Form,
    tokenizer: Arc<Tokenizer>,
    /// All text so far, stop texts included.
    decoder: StreamDecoder,
    /// Its characters, and those that were sent.
    decoded: usize,
    sent: usize,
    /// Not sent yet, in the order of their tokens.
    waiting: Vec<Entry>,
}

/// One token. Small: JSON values of a long answer with many alternatives would take hundreds of megabytes.
struct Entry {
    id: u32,
    /// Characters of the text that were complete before it.
    offset: usize,
    logprobs: Logprobs,
}

impl Unsent {
    /// Of a generation that begins.
    pub fn new(form: Form, tokenizer: Arc<Tokenizer>) -> Self {
        Unsent {
            form,
            tokenizer,
            decoder: StreamDecoder::new([]),
            decoded: 0,
            sent: 0,
            waiting: Vec::new(),
        }
    }

    /// The next token.
    pub fn add(&mut self, id: u32, logprobs: Logprobs) {
        let offset = self.decoded;
        self.waiting.push(Entry { id, offset, logprobs });
        let piece = self.decoder.push(self.tokenizer.token_bytes(id, false));
        self.decoded += piece.text.chars().count();
    }

    /// Entries of the tokens that the next `text` comes from.
    pub fn take_with(&mut self, text: &str) -> Entries {
        self.sent += text.chars().count();
        let begun = self.waiting.partition_point(|entry| entry.offset < self.sent);
        self.entries(begun)
    }

    /// Entries of a whole output, which is sent at once.
    pub fn take_all(&mut self, tokens: &[u32], logprobs: Vec<Logprobs>) -> Entries {
        for (&id, logprobs) in tokens.iter().zip(logprobs) {
            self.add(id, logprobs);
        }
        self.take_rest()
    }

    /// All others: of stop texts, and of tokens without text.
    pub fn take_rest(&mut self) -> Entries {
        self.entries(self.waiting.len())
    }

    fn entries(&mut self, count: usize) -> Entries {
        Entries {
            form: self.form,
            tokenizer: self.tokenizer.clone(),
            list: self.waiting.drain(..count).collect(),
        }
    }
}

/// Entries, written as JSON in their API's form.
pub struct Entries {
    form: Form,
    tokenizer: Arc<Tokenizer>,
    list: Vec<Entry>,
}

impl Entries {
    /// Nothing, where there are none.
    pub fn some(self) -> Option<Self> {
        (!self.list.is_empty()).then_some(self)
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (tokenizer, list) = (&*self.tokenizer, self.list.iter());
        match self.form {
            Form::Chat => ChatForm {
                content: list.map(|entry| Detailed::of(entry, tokenizer, false)).collect(),
                refusal: (),
            }
            .serialize(to),
            Form::Text => TextForm {
                tokens: list.clone().map(|entry| name(tokenizer, entry.id)).collect(),
                token_logprobs: list.clone().map(|entry| entry.logprobs.chosen).collect(),
                top_logprobs: list.clone().map(|entry| Named(entry, tokenizer)).collect(),
                text_offset: list.map(|entry| entry.offset).collect(),
            }
            .serialize(to),
            Form::Llama => to.collect_seq(list.map(|entry| Detailed::of(entry, tokenizer, true))),
        }
    }
}

#[derive(Serialize)]
struct ChatForm<'a> {
    content: Vec<Detailed<'a>>,
    refusal: (),
}

#[derive(Serialize)]
struct TextForm<'a> {
    tokens: Vec<Cow<'a, str>>,
    token_logprobs: Vec<f64>,
    top_logprobs: Vec<Named<'a>>,
    text_offset: Vec<usize>,
}

/// A token as chats and llama-server tell of it.
#[derive(Serialize)]
struct Detailed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    token: Cow<'a, str>,
    /// What it adds to the text: nothing, when it is a control token.
    bytes: &'a [u8],
    logprob: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Detailed<'a>>>,
}

impl<'a> Detailed<'a> {
    fn of(entry: &Entry, tokenizer: &'a Tokenizer, with_id: bool) -> Self {
        let detailed = |id, logprob| Detailed {
            id: with_id.then_some(id),
            token: name(tokenizer, id),
            bytes: tokenizer.token_bytes(id, false),
            logprob,
            top_logprobs: None,
        };
        let Logprobs { chosen, top } = &entry.logprobs;
        let top = top.iter().map(|&(id, logprob)| detailed(id, logprob)).collect();
        Detailed {
            top_logprobs: Some(top),
            ..detailed(entry.id, *chosen)
        }
    }
}

/// The most likely tokens by their names, and the generated one, which need not be among them.
struct Named<'a>(&'a Entry, &'a Tokenizer);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Named(Entry { id, logprobs, .. }, tokenizer) = self;
        let mut map = to.serialize_map(None)?;
        let mut names: Vec<Cow<'_, str>> = Vec::new();
        for &(id, logprob) in logprobs.top.iter().chain([&(*id, logprobs.chosen)]) {
            let name = name(tokenizer, id);
            // Of tokens with one name, the most likely.
            if !names.contains(&name) {
                map.serialize_entry(&name, &logprob)?;
                names.push(name);
            }
        }
        map.end()
    }
}

/// A token as text. Where it is not whole characters, its bytes as OpenAI's API spells them: different tokens stay different.
fn name(tokenizer: &Tokenizer, id: u32) -> Cow<'_, str> {
    let bytes = tokenizer.token_bytes(id, true);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes
            .iter()
            .fold("bytes:".to_owned(), |mut name, byte| {
                write!(name, "\\x{byte:02x}").expect("a string takes everything");
                name
            })
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{MapOptions, Model};

    fn tokenizer() -> Arc<Tokenizer> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf");
        let opened = Model::open(&path, MapOptions::default()).unwrap();
        Arc::new(Tokenizer::from_gguf(&opened.gguf, None).unwrap())
    }

    fn read(form: Form, body: Value) -> Result<Option<usize>, String> {
        let body = JsonObject::parse(&body.to_string().into()).unwrap();
        form.read(&body).map_err(|error| error.to_json()["error"].to_string())
    }

    #[test]
    fn each_api_asks_in_its_own_way() {
        for (form, body, wanted) in [
            (Form::Chat, json!({}), None),
            (Form::Chat, json!({"logprobs": null, "top_logprobs": null}), None),
            (Form::Chat, json!({"logprobs": false, "top_logprobs": 0}), None),
            (Form::Chat, json!({"logprobs": true}), Some(0)),
            (Form::Chat, json!({"logprobs": true, "top_logprobs": 20}), Some(20)),
            (Form::Text, json!({}), None),
            (Form::Text, json!({"logprobs": false}), None),
            (Form::Text, json!({"logprobs": 0}), Some(0)),
            (Form::Text, json!({"logprobs": 5}), Some(5)),
            (Form::Llama, json!({}), None),
            (Form::Llama, json!({"n_probs": 0}), None),
            (Form::Llama, json!({"n_probs": 100}), Some(100)),
        ] {
            assert_eq!(read(form, body.clone()), Ok(wanted), "{form:?} {body}");
        }
    }

    #[test]
    fn what_cannot_be_meant_names_its_field_and_what_can() {
        for (form, body, field, says) in [
            (
                Form::Chat,
                json!({"top_logprobs": 1}),
                "top_logprobs",
                "needs `logprobs`",
            ),
            (
                Form::Chat,
                json!({"logprobs": false, "top_logprobs": 1}),
                "top_logprobs",
                "needs `logprobs`",
            ),
            (
                Form::Chat,
                json!({"logprobs": true, "top_logprobs": 21}),
                "top_logprobs",
                "from 0 to 20",
            ),
            (
                Form::Chat,
                json!({"logprobs": true, "top_logprobs": -1}),
                "top_logprobs",
                "from 0 to 20",
            ),
            (Form::Chat, json!({"logprobs": 1}), "logprobs", "expected a boolean"),
            (Form::Text, json!({"logprobs": 6}), "logprobs", "from 0 to 5"),
            (Form::Text, json!({"logprobs": i64::MIN}), "logprobs", "from 0 to 5"),
            (Form::Text, json!({"logprobs": true}), "logprobs", "from 0 to 5"),
            (Form::Text, json!({"logprobs": "x"}), "logprobs", "a number is needed"),
            (Form::Llama, json!({"n_probs": 101}), "n_probs", "from 0 to 100"),
            (Form::Llama, json!({"n_probs": 1.5}), "n_probs", "expected i64"),
        ] {
            let error = read(form, body.clone()).unwrap_err();
            assert!(
                error.contains(&format!(r#""param":"{field}""#)) && error.contains(says),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn tokens_have_names_that_tell_them_apart() {
        let tokenizer = tokenizer();
        let mut names: Vec<_> = (0..tokenizer.vocab() as u32).map(|id| name(&tokenizer, id)).collect();
        assert!(names.iter().any(|name| name == "<|eot_id|>") && names.iter().any(|name| name == r"bytes:\xe6"));
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "no name twice");
    }

    #[test]
    fn the_forms() {
        let mut unsent = [Form::Chat, Form::Text, Form::Llama].map(|form| Unsent::new(form, tokenizer()));
        let end = tokenizer().eos().unwrap();
        let logprobs = Logprobs {
            chosen: -2.5,
            top: vec![(end, -0.5), (1, -1.5)],
        };
        let [chat, text, llama] = unsent.each_mut().map(|unsent| {
            unsent.add(0, logprobs.clone());
            unsent.add(
                1,
                Logprobs {
                    chosen: -1.5,
                    ..logprobs.clone()
                },
            );
            serde_json::to_value(unsent.take_rest()).unwrap()
        });
        let end_name = name(&tokenizer(), end).into_owned();
        let top = json!([
            {"token": end_name, "bytes": [], "logprob": -0.5},
            {"token": "\"", "bytes": [34], "logprob": -1.5},
        ]);
        let content = json!([
            {"token": "!", "bytes": [33], "logprob": -2.5, "top_logprobs": top},
            {"token": "\"", "bytes": [34], "logprob": -1.5, "top_logprobs": top},
        ]);
        assert_eq!(chat, json!({"content": content, "refusal": null}));
        assert_eq!(
            text,
            json!({
                "tokens": ["!", "\""],
                "token_logprobs": [-2.5, -1.5],
                "top_logprobs": [{&end_name: -0.5, "\"": -1.5, "!": -2.5}, {&end_name: -0.5, "\"": -1.5}],
                "text_offset": [0, 1],
            })
        );
        assert_eq!(llama[0]["id"], 0);
        assert_eq!(
            llama[1]["top_logprobs"][0],
            json!({"id": end, "token": end_name, "bytes": [], "logprob": -0.5})
        );
    }

    proptest! {
        /// As a stream sends them: with text, of which a stop text or an unfinished character holds some back, and at its end.
        #[test]
        fn every_token_comes_once_with_the_text_that_begins_with_it(
            ids in prop::collection::vec(prop_oneof![0u32..256, 0u32..1280], 0..40),
            stops in prop::collection::vec("[!-~]{1,2}", 0..4),
        ) {
            let tokenizer = tokenizer();
            let mut unsent = Unsent::new(Form::Text, tokenizer.clone());
            let mut stream = StreamDecoder::new(stops);
            let (mut text, mut entries, mut bytes) = (String::new(), Vec::new(), Vec::new());
            let mut send = |part: &str, unsent: &mut Unsent| {
                let begin = text.chars().count();
                text.push_str(part);
                let new = unsent.take_with(part).list;
                let of_part = begin..text.chars().count();
                prop_assert!(new.iter().all(|entry| of_part.contains(&entry.offset)));
                entries.extend(new);
                Ok(())
            };
            let (mut generated, mut stopped) = (0, false);
            while generated < ids.len() && !stopped {
                let id = ids[generated];
                generated += 1;
                unsent.add(id, Logprobs { chosen: -1.0, top: Vec::new() });
                let piece = stream.push(tokenizer.token_bytes(id, false));
                send(&piece.text, &mut unsent)?;
                stopped = piece.stopped;
            }
            if !stopped {
                send(&stream.finish().text, &mut unsent)?;
            }
            let rest = unsent.take_rest().list;
            prop_assert!(rest.iter().all(|entry| entry.offset >= text.chars().count()));
            entries.extend(rest);
            for entry in &entries {
                if let Ok(whole) = str::from_utf8(&bytes) {
                    prop_assert_eq!(entry.offset, whole.chars().count());
                }
                bytes.extend_from_slice(tokenizer.token_bytes(entry.id, false));
            }
            let sent: Vec<u32> = entries.iter().map(|entry| entry.id).collect();
            prop_assert_eq!(&sent[..], &ids[..generated]);
            let all = String::from_utf8_lossy(&bytes);
            prop_assert!(all.starts_with(&text) && (stopped || all.len() == text.len()));
        }
    }
}
