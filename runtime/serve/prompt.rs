//! The `prompt` field, in the forms that OpenAI and llama.cpp clients send.

use serde::Deserialize;

use super::body::JsonObject;
use super::error::ApiError;
use super::generate::Prompt;

#[derive(Deserialize)]
struct Fields {
    prompt: Wire,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a string, a list of token ids, or a list of one of these is needed"
)]
enum Wire {
    One(Form),
    Many(Vec<Form>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Tokens(Vec<u32>),
}

/// The prompt of `body`: a text, a list of tokens, or a list with one of these.
pub fn read_prompt(body: &JsonObject) -> Result<Prompt, ApiError> {
    let form = match body.read::<Fields>()?.prompt {
        Wire::One(form) => form,
        Wire::Many(mut forms) => match (forms.pop(), forms.is_empty()) {
            (Some(form), true) => form,
            _ => {
                return Err(ApiError::invalid(
                    "prompt",
                    "`prompt` must hold exactly one prompt: send one request each",
                ));
            }
        },
    };
    let prompt = match form {
        Form::Text(text) => Prompt::Text(text),
        Form::Tokens(tokens) => Prompt::Tokens(tokens),
    };
    match &prompt {
        Prompt::Text(text) if text.is_empty() => Err(ApiError::invalid("prompt", "`prompt` is empty")),
        Prompt::Tokens(tokens) if tokens.is_empty() => Err(ApiError::invalid("prompt", "`prompt` is empty")),
        _ => Ok(prompt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(prompt: Value) -> Result<Prompt, String> {
        let body = JsonObject::parse(&json!({"prompt": prompt}).to_string().into()).unwrap();
        read_prompt(&body).map_err(|error| error.to_json().to_string())
    }

    #[test]
    fn every_form_of_one_prompt() {
        let text = Prompt::Text("hi".to_owned());
        assert_eq!(read(json!("hi")), Ok(text.clone()));
        assert_eq!(read(json!(["hi"])), Ok(text));
        assert_eq!(read(json!([1, 2])), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(read(json!([[1, 2]])), Ok(Prompt::Tokens(vec![1, 2])));
    }

    #[test]
    fn no_prompt_several_prompts_and_other_types_are_refused() {
        for (prompt, says) in [
            (json!(""), "is empty"),
            (json!([]), "is empty"),
            (json!([""]), "is empty"),
            (json!([[]]), "is empty"),
            (json!(["a", "b"]), "exactly one"),
            (json!([[1], [2]]), "exactly one"),
            (json!([1, "a"]), "list of token ids"),
            (json!([-1]), "list of token ids"),
            (json!(5), "list of token ids"),
            (json!({"text": "a"}), "list of token ids"),
        ] {
            let error = read(prompt.clone()).unwrap_err();
            assert!(error.contains(says) && error.contains("prompt"), "{prompt}: {error}");
        }
    }
}
