/// The version of this package, which its programs `dtlsd` and `dtls` share.
package enum ProgramVersion {
    /// As Semantic Versioning writes it, e.g. `0.1.0`.
    package static let current = "0.1.0"
}
