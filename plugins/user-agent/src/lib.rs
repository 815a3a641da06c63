//! What a user agent tells: a library that plugins share, and no plugin by itself.
//!
//! The rules are one pass over the words of a user agent, then a decision by rank.
//!
//! Browsers claim to be each other (`Edg` also says `Chrome` and `Safari`, `Android` also says `Linux`), so a word never
//! decides by itself: each has a rank, and the highest wins.

/// What a user agent tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent<'a> {
    /// Name of the browser, app or bot.
    pub browser: Option<Name<'a>>,
    /// First number of its version.
    pub major: Option<i64>,
    /// Name of the operating system.
    pub os: Option<&'static str>,
    /// Kind of device.
    pub class: Class,
}

/// The name of a browser.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    /// One that the rules know.
    Known(&'static str),
    /// As a bot calls itself: a part of the user agent.
    Own(&'a str),
}

impl<'a> Name<'a> {
    /// The name.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Known(name) => name,
            Self::Own(name) => name,
        }
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name<'_> {}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A computer with a keyboard.
    Desktop,
    /// A telephone.
    Mobile,
    /// A tablet.
    Tablet,
    /// A program that reads pages by itself, or an HTTP library.
    Bot,
    /// A television or what is plugged into one.
    Tv,
    /// Anything else.
    Other,
}

impl Class {
    /// The name in the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Mobile => "mobile",
            Self::Tablet => "tablet",
            Self::Bot => "bot",
            Self::Tv => "tv",
            Self::Other => "other",
        }
    }
}

/// Ranks of browsers: what is built on another outranks it.
mod rank {
    pub const EXPLORER: u8 = 1;
    pub const SAFARI: u8 = 2;
    pub const CHROME: u8 = 3;
    pub const FIREFOX: u8 = 4;
    /// Browsers made of the ones above.
    pub const MADE_OF: u8 = 5;
    /// Apps that open pages within themselves.
    pub const APP: u8 = 6;
    pub const BOT: u8 = 7;
}

/// Browsers and apps by the name of their product token.
fn product(name: &str) -> Option<(u8, &'static str)> {
    use rank::{APP, CHROME, FIREFOX, MADE_OF};
    Some(match name {
        "Chrome" | "CriOS" | "Chromium" => (CHROME, "Chrome"),
        "Firefox" | "FxiOS" | "Focus" | "Klar" => (FIREFOX, "Firefox"),
        "Edg" | "Edge" | "EdgA" | "EdgiOS" => (MADE_OF, "Edge"),
        "OPR" | "Opera" | "OPiOS" | "OPT" | "OPX" => (MADE_OF, "Opera"),
        "SamsungBrowser" => (MADE_OF, "Samsung Internet"),
        "YaBrowser" => (MADE_OF, "Yandex"),
        "Vivaldi" => (MADE_OF, "Vivaldi"),
        "UCBrowser" | "UBrowser" => (MADE_OF, "UC Browser"),
        "Silk" => (MADE_OF, "Silk"),
        "MiuiBrowser" => (MADE_OF, "Miui Browser"),
        "HuaweiBrowser" => (MADE_OF, "Huawei Browser"),
        "DuckDuckGo" | "Ddg" => (MADE_OF, "DuckDuckGo"),
        "Whale" => (MADE_OF, "Whale"),
        "QQBrowser" | "MQQBrowser" => (MADE_OF, "QQ Browser"),
        "FBAV" | "FBAN" | "FB_IAB" => (APP, "Facebook"),
        "Instagram" => (APP, "Instagram"),
        "MicroMessenger" => (APP, "WeChat"),
        "BytedanceWebview" | "musical_ly" | "trill" | "TikTok" => (APP, "TikTok"),
        "Line" => (APP, "Line"),
        "Snapchat" => (APP, "Snapchat"),
        "Pinterest" => (APP, "Pinterest"),
        "LinkedInApp" => (APP, "LinkedIn"),
        "Twitter" | "TwitterAndroid" => (APP, "Twitter"),
        "GSA" => (APP, "Google App"),
        _ => return None,
    })
}

/// Operating systems by a word, and the rank of that word.
fn system(word: &str) -> Option<(u8, &'static str)> {
    Some(match word {
        "Linux" | "X11" | "Ubuntu" | "Fedora" => (1, "Linux"),
        "Macintosh" | "macOS" => (1, "macOS"),
        "Windows" | "Win64" | "WOW64" => (2, "Windows"),
        "FreeBSD" | "OpenBSD" | "NetBSD" => (2, "BSD"),
        "CrOS" => (3, "ChromeOS"),
        "Android" | "Dalvik" => (3, "Android"),
        "iPhone" | "iPad" | "iPod" | "iOS" | "iPadOS" => (4, "iOS"),
        "Tizen" => (4, "Tizen"),
        "Web0S" | "WebOS" | "webOS" | "webOS.TV" => (4, "webOS"),
        "KAIOS" => (4, "KaiOS"),
        "HarmonyOS" | "OpenHarmony" => (4, "HarmonyOS"),
        "AppleTV" | "tvOS" => (5, "tvOS"),
        "Roku" => (5, "Roku"),
        "PlayStation" => (5, "PlayStation"),
        "Xbox" => (5, "Xbox"),
        "Nintendo" => (5, "Nintendo"),
        "Phone" => (5, "Windows Phone"),
        _ => return None,
    })
}

/// Whether a word names a television.
fn is_tv(word: &str) -> bool {
    const NAMES: [&str; 14] = [
        "SMART-TV",
        "SmartTV",
        "Smart-TV",
        "TV",
        "GoogleTV",
        "AppleTV",
        "tvOS",
        "HbbTV",
        "BRAVIA",
        "CrKey",
        "NetCast",
        "NetCast.TV",
        "Web0S",
        "webOS.TV",
    ];
    // Fire TV sticks and boxes: AFTS, AFTMM, AFTKA …
    let fire = (4..=8).contains(&word.len())
        && word.starts_with("AFT")
        && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    NAMES.contains(&word) || word.starts_with("Roku") || fire
}

/// Whether there may be a part of a bot's name anywhere in the text: most texts have none, and a look for it in each word
/// is most of what a user agent costs. Without branches, which compilers turn into vector instructions.
fn may_name_bot(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().zip(bytes.iter().skip(1)).fold(false, |any, (first, second)| {
        let (first, second) = (first | 0x20, second | 0x20);
        // Two letters of each of bot, crawl, spider and lighthouse, which starts as "like Gecko" does.
        let (bot, crawl) = ((first == b'b') & (second == b'o'), (first == b'c') & (second == b'r'));
        let (spider, lighthouse) = ((first == b's') & (second == b'p'), (first == b'g') & (second == b'h'));
        any | bot | crawl | spider | lighthouse
    })
}

/// Whether a word names a program that reads pages by itself; `by_part` when parts of names are looked for.
fn is_bot(word: &str, by_part: bool) -> bool {
    const CLIENTS: [&str; 20] = [
        "curl",
        "Wget",
        "python-requests",
        "Python-urllib",
        "python-httpx",
        "aiohttp",
        "Go-http-client",
        "Java",
        "Apache-HttpClient",
        "axios",
        "node-fetch",
        "PostmanRuntime",
        "HeadlessChrome",
        "PhantomJS",
        "Scrapy",
        "facebookexternalhit",
        "Mediapartners-Google",
        "WhatsApp",
        "Slurp",
        "libwww-perl",
    ];
    const PARTS: [&str; 3] = ["crawl", "spider", "lighthouse"];
    if CLIENTS.contains(&word) {
        return true;
    }
    if !by_part {
        return false;
    }
    let bytes = word.as_bytes();
    let at = |part: &str| bytes.windows(part.len()).position(|window| window.eq_ignore_ascii_case(part.as_bytes()));
    // `Googlebot`, `AdsBot-Google`, but neither `Cubot`, which makes telephones, nor `botany`.
    let bot = at("bot").is_some_and(|start| {
        let cubot = start >= 2 && bytes[start - 2..start].eq_ignore_ascii_case(b"cu");
        !cubot && !bytes.get(start + 3).is_some_and(u8::is_ascii_alphabetic)
    });
    bot || PARTS.iter().any(|part| at(part).is_some())
}

/// The first number of a version.
fn major(version: &str) -> Option<i64> {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version.get(..digits).filter(|text| matches!(text.len(), 1..=9))?.parse().ok()
}

/// What the words of a user agent said.
#[derive(Default)]
struct Seen<'a> {
    browser: Option<(u8, Name<'a>, Option<i64>)>,
    os: Option<(u8, &'static str)>,
    /// The number behind `Version/`: Safari's own, and old Opera's.
    version: Option<i64>,
    safari: bool,
    webkit: bool,
    webview: bool,
    mobile: bool,
    tablet: bool,
    tv: bool,
    ipad: bool,
    bot: bool,
    may_name_bot: bool,
}

impl<'a> Agent<'a> {
    /// Reads a user agent.
    pub fn of(text: &'a str) -> Self {
        let mut seen = Seen { may_name_bot: may_name_bot(text), ..Seen::default() };
        let mut words = text.split([' ', '(', ')', ';', ',', '[', ']', '"']).filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            let (name, version) = word.split_once('/').unwrap_or((word, ""));
            let next = words.peek().copied().unwrap_or_default();
            seen.word(name, version, next);
        }
        seen.decide()
    }
}

impl<'a> Seen<'a> {
    fn word(&mut self, name: &'a str, version: &'a str, next: &str) {
        match name {
            "Mobile" | "mobile" | "Mobi" => self.mobile = true,
            "Tablet" | "tablet" | "Kindle" | "PlayBook" => self.tablet = true,
            "Version" => self.version = major(version),
            "Safari" => self.safari = true,
            "AppleWebKit" => self.webkit = true,
            "wv" => self.webview = true,
            "MSIE" => self.browser(rank::EXPLORER, Name::Known("Internet Explorer"), major(next)),
            "Trident" => self.browser(rank::EXPLORER, Name::Known("Internet Explorer"), None),
            "Mini" => {
                if let Some((rank::MADE_OF, _, known)) = &mut self.browser {
                    *known = major(version).or(*known);
                }
            }
            _ => {}
        }
        if let Some(version) = name.strip_prefix("rv:")
            && let Some((rank::EXPLORER, _, known @ None)) = &mut self.browser
        {
            *known = major(version);
        }
        self.ipad |= name == "iPad";
        self.tv |= is_tv(name);
        if let Some((rank, name)) = product(name) {
            // `Instagram 308.0` has a space where others have a slash.
            let version = if version.is_empty() && rank == rank::APP { next } else { version };
            self.browser(rank, Name::Known(name), major(version));
        }
        // `Windows Phone`, but no other phone.
        let phone = name == "Phone" && self.os.is_none_or(|(_, os)| os != "Windows");
        if let Some((rank, os)) = system(name)
            && !phone
            && self.os.is_none_or(|(known, _)| known < rank)
        {
            self.os = Some((rank, os));
        }
        let address = name.starts_with(['+', '<']) || name.starts_with("http") || name.contains('@');
        if !self.bot && !address && is_bot(name, self.may_name_bot) {
            self.bot = true;
            self.browser(rank::BOT, Name::Own(name), major(version));
        }
    }

    fn browser(&mut self, rank: u8, name: Name<'a>, major: Option<i64>) {
        match &mut self.browser {
            // The same browser by another of its names, this time with a version.
            Some((_, known, known_major)) if *known == name => *known_major = known_major.or(major),
            Some((known, ..)) if *known >= rank => {}
            _ => self.browser = Some((rank, name, major)),
        }
    }

    fn decide(mut self) -> Agent<'a> {
        let os = self.os.map(|(_, os)| os);
        let ios = os == Some("iOS");
        let below = |rank: u8, browser: &Option<(u8, Name<'_>, Option<i64>)>| {
            browser.as_ref().is_none_or(|(known, ..)| *known < rank)
        };
        if below(rank::SAFARI, &self.browser) {
            if self.safari && os == Some("Android") {
                self.browser(rank::SAFARI, Name::Known("Android Browser"), self.version);
            } else if self.safari && self.version.is_some() {
                self.browser(rank::SAFARI, Name::Known("Safari"), self.version);
            } else if ios && self.webkit {
                self.browser(rank::SAFARI, Name::Known("iOS WebView"), None);
            }
        }
        if let Some((rank::CHROME, name, _)) = &mut self.browser
            && os == Some("Android")
            && (self.webview || self.version == Some(4))
        {
            *name = Name::Known("Android WebView");
        }
        if let Some((_, name, known)) = &mut self.browser
            && name.as_str() == "Opera"
            && *known == Some(9)
            && self.version.is_some()
        {
            *known = self.version;
        }
        let class = self.class(os);
        let (browser, major) = self.browser.map_or((None, None), |(_, name, major)| (Some(name), major));
        Agent { browser, major, os, class }
    }

    fn class(&self, os: Option<&str>) -> Class {
        if self.bot {
            return Class::Bot;
        }
        if self.tv {
            return Class::Tv;
        }
        match os {
            _ if self.ipad || self.tablet => Class::Tablet,
            // Dalvik speaks for apps, and never says whether it runs on a telephone: most do.
            Some("Android" | "HarmonyOS") if !self.mobile && self.webkit => Class::Tablet,
            Some("Android" | "HarmonyOS" | "iOS" | "Windows Phone" | "KaiOS") => Class::Mobile,
            Some("PlayStation" | "Xbox" | "Nintendo") => Class::Other,
            Some("Tizen") if self.mobile => Class::Mobile,
            Some("Tizen" | "webOS" | "tvOS" | "Roku") => Class::Tv,
            _ if self.mobile => Class::Mobile,
            Some("Windows" | "macOS" | "Linux" | "ChromeOS" | "BSD") => Class::Desktop,
            _ => Class::Other,
        }
    }
}

#[cfg(test)]
mod tests;
