//! Requests through the routes, to engines that break in ways in which no model file would break them.

use std::path::Path;

use axum::body::{Body, to_bytes};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::*;
use crate::engine::kv::CacheTypes;
use crate::engine::{Engine, EngineConfig, Speculation, testing};
use crate::model::{MapOptions, Opened};
use crate::settings::{Env, ServeArgs};
use crate::text::{TemplateError, Tokenizer};
use state::Loaded;

/// A server that is ready with this model.
fn app(model: Arc<Model>) -> Arc<App> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf");
    let Opened { gguf, .. } = Model::open(&path, MapOptions::default()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf, None).unwrap());
    let config = EngineConfig {
        threads: 1,
        context: 0,
        parallel: 1,
        queue: 1,
        batch: 8,
        speculation: Speculation::Never,
        cache: CacheTypes::default(),
    };
    let engine = Engine::start(model.clone(), tokenizer.clone(), testing::kernels(), config).unwrap();
    let settings = Settings::new(ServeArgs::default(), &Env::new()).unwrap();
    let app = App::new(settings, testing::kernels(), 1);
    app.set_phase(Phase::Ready(Arc::new(Loaded {
        id: "by hand".to_owned(),
        names: Vec::new(),
        path,
        bytes: 0,
        model,
        tokenizer,
        template: Err(TemplateError::None),
        context: engine.config().context,
        engine,
    })));
    Arc::new(app)
}

/// Status and JSON of an answer.
async fn ask(app: &Arc<App>, request: axum::http::request::Builder, body: Value) -> (u16, Value) {
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = TowerToHyperService::new(routes(app)).call(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

async fn get(app: &Arc<App>, path: &str) -> (u16, Value) {
    ask(app, Request::get(path), Value::Null).await
}

async fn complete(app: &Arc<App>, prompt: &[u32]) -> (u16, Value) {
    let body = json!({"prompt": prompt, "n_predict": 1, "ignore_eos": true});
    ask(app, Request::post("/completion"), body).await
}

#[tokio::test]
async fn a_server_whose_engine_panicked_is_not_ready() {
    // A layer of the wrong width, which the loader would not let through.
    let app = app(testing::model_with_a_short_layer());
    assert_eq!(get(&app, "/health").await.0, 200);
    let (status, answer) = complete(&app, &[1]).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("engine_failed")));
    for path in ["/health", "/ready", "/v1/models"] {
        let (status, answer) = get(&app, path).await;
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("engine_failed")));
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("internal error"),
            "the file is not to blame: {message}"
        );
    }
    assert_eq!(get(&app, "/live").await.0, 503);
}

#[tokio::test]
async fn a_value_that_is_not_finite_fails_its_request_and_not_the_server() {
    // Token 0 embeds to infinities.
    let app = app(testing::model_with_broken_embedding());
    for _ in 0..2 {
        let (status, answer) = complete(&app, &[0]).await;
        assert_eq!((status, &answer["error"]["code"]), (500, &json!("non_finite")));
        assert_eq!(get(&app, "/health").await.0, 200);
    }
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready_again() {
    let app = app(testing::model());
    let Phase::Ready(loaded) = app.phase.send_replace(Phase::Stopping) else {
        panic!("it was ready");
    };
    // What the loader has to say when it is done.
    app.set_phase(Phase::Ready(loaded));
    let (status, health) = get(&app, "/health").await;
    assert_eq!((status, &health["status"]), (503, &json!("stopping")));
}
