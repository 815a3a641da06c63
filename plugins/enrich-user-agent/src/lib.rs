//! probe
use millrace_sdk::*;
/// probe
pub struct P { ip: ColMut<[u8]>, b: ColMut<str> }
impl Transform for P {
    type Config = NoConfig;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
        Ok(Self { ip: schema.update("ip"), b: schema.add("ua_browser") })
    }
    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        if event.get(self.ip).is_some() { event.set(self.ip, b"x"); event.set(self.b, "u"); event.emit(); log!("x{}", 1); }
        event.set_with(self.ip, |a, b| b.extend_from_slice(a));
        Outcome::Keep
    }
}
export!(P);
