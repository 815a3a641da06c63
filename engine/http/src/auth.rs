//! Who is let in, to what, and how often.
//!
//! A token comes as `Authorization: Bearer <token>`, or as the user name of `Authorization: Basic`, which is where Segment's
//! SDKs put their write key. While no token is in force a server on loopback lets everybody in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use millrace_pipeline::tokens::{Principal, Scope};

use crate::Api;
use crate::error::ApiError;

/// Seconds' worth of requests that may come at once.
const BURST_S: u64 = 2;
/// Most tokens whose rate is kept; past it those that are not in use are forgotten.
const RATES_MAX: usize = 10_000;

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever has a token.
    Tokens,
    /// Whoever has a token; everybody while none is in force: for a server on loopback.
    TokensOnceMade,
    /// A command on this machine, which has the data directory itself.
    Offline,
}

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Any token but one of an app.
    Observe,
    /// A scope.
    Scope(Scope),
}

/// Lets a request pass that has what the route needs; the handler finds the [`Principal`] in its extensions.
pub(crate) async fn require(State((api, needs)): State<(Api, Needs)>, mut request: Request, next: Next) -> Response {
    match admit(&api, needs, request.headers()) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn admit(api: &Api, needs: Needs, headers: &HeaderMap) -> Result<Principal, ApiError> {
    if api.trust == Trust::Offline {
        return Ok(Principal::trusted("offline"));
    }
    let tokens = api.engine.tokens();
    let open = api.trust == Trust::TokensOnceMade && !tokens.any_in_force();
    let principal = match token_of(headers) {
        Some(text) => match tokens.verify(&text) {
            Some(principal) => principal,
            // While there are no tokens a client may send what it likes, as SDKs do with their write keys.
            None if open => Principal::trusted("anonymous"),
            None => return Err(ApiError::unauthorized("the token is not known, or was taken back")),
        },
        None if open => Principal::trusted("anonymous"),
        None => {
            return Err(ApiError::unauthorized(
                "a token is needed: send it as Authorization: Bearer, or as the user name of Basic",
            ));
        }
    };
    if let Some(id) = &principal.token {
        let per_second = principal.requests_per_second.unwrap_or(api.limits.token_requests_per_second);
        if let Err(wait_s) = api.rates.take(id, u64::from(per_second), (api.engine.clock())()) {
            return Err(ApiError::too_many(per_second, wait_s));
        }
    }
    let allowed = match needs {
        Needs::Observe => principal.may_observe(),
        Needs::Scope(scope) => principal.may(scope),
    };
    match (allowed, needs) {
        (true, _) => Ok(principal),
        (false, Needs::Scope(scope)) => Err(ApiError::forbidden(format!("the token does not have the scope {scope}"))),
        (false, Needs::Observe) => Err(ApiError::forbidden("a token of an app can only send events")),
    }
}

fn token_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(BASE64.decode(rest.trim()).ok()?).ok()?;
        return decoded.split_once(':').map(|(user, _)| user.to_owned());
    }
    None
}

/// When each token may come again: the generic cell rate algorithm, a number a token.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<String, i64>>);

impl Rates {
    /// Takes one request of a token. The error is the number of seconds to wait.
    fn take(&self, id: &str, per_second: u64, now_us: i64) -> Result<(), u64> {
        let gap_us = i64::try_from(1_000_000 / per_second.max(1)).unwrap_or(1_000_000).max(1);
        let burst_us = i64::try_from(BURST_S * 1_000_000).unwrap_or(i64::MAX);
        let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= RATES_MAX {
            due.retain(|_, due_us| *due_us > now_us);
        }
        // A due time far ahead means that the clock was set back.
        let at = due.get(id).copied().unwrap_or(now_us).clamp(now_us, now_us.saturating_add(burst_us + gap_us));
        let ahead_us = at - now_us;
        if ahead_us + gap_us > burst_us.max(gap_us) {
            return Err((ahead_us + gap_us - burst_us).max(1).cast_unsigned().div_ceil(1_000_000));
        }
        due.insert(id.to_owned(), at + gap_us);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_burst_and_then_comes_at_its_rate() {
        let rates = Rates::default();
        let taken = |now_us| (0..100).take_while(|_| rates.take("a", 10, now_us).is_ok()).count();
        assert_eq!(taken(0), 20, "two seconds' worth at once");
        assert_eq!(rates.take("a", 10, 0), Err(1));
        assert_eq!(rates.take("b", 10, 0), Ok(()), "each has a rate of its own");
        assert_eq!(taken(1_000_000), 10);
        assert_eq!(taken(100_000_000), 20);
        assert_eq!(taken(50_000_000), 0, "a clock that was set back");
        let slow = |now_us| rates.take("slow", 1, now_us);
        assert_eq!([slow(0), slow(0), slow(0), slow(1_000_000)], [Ok(()), Ok(()), Err(1), Ok(())]);
    }

    #[test]
    fn tokens_come_as_bearer_or_as_the_user_of_basic() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            token_of(&headers)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of(&format!("basic {}", BASE64.encode("key:"))).as_deref(), Some("key"));
        for bad in ["", "Bearer", "Digest abc", "Basic ?", &format!("Basic {}", BASE64.encode("no colon"))] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
