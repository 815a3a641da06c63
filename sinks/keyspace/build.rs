//! Where FoundationDB's client library is, for the linker. Its bindings read the variable as well, but do not look again
//! when it has changed.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=FDB_CLIENT_LIB_PATH");
    if std::env::var_os("CARGO_FEATURE_FOUNDATIONDB").is_some()
        && let Ok(path) = std::env::var("FDB_CLIENT_LIB_PATH")
    {
        println!("cargo:rustc-link-search=native={path}");
        // Of this crate's own tests; whatever else runs finds it as the system does.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{path}");
    }
}
