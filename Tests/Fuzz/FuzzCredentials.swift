// Built by scripts/fuzz, which lets it use the engine's internal names.

import COpenSSL
import Primitives

@testable import DTLSEngine

/// What a client shows of itself and what it brings back: its certificate, of which any bytes may be names, and the session
/// that is in its ticket or in the cache, with the notes in it. And the files of keys, which other programs write.
///
/// The first byte of the input names the parser.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzCredentials(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let input = UnsafeRawBufferPointer(start: bytes, count: count)
    guard let parser = input.first else { return 0 }
    let rest = [UInt8](input.dropFirst())
    switch parser % 5 {
    case 0: certificate(rest)
    case 1: notes(rest)
    case 2: session(rest)
    case 3: presharedKeys(rest)
    default: publicKeys(rest)
    }
    OpenSSLError.clear()
    return 0
}

/// Its names are kept in a session in a form that is read in the same way.
private func certificate(_ bytes: [UInt8]) {
    let found = bytes.withUnsafeBufferPointer { buffer in
        var position = buffer.baseAddress
        return d2i_X509(nil, &position, buffer.count)
    }
    guard let found else { return }
    defer { X509_free(found) }
    let names = CertificateNames(of: found)
    for (kind, value) in names.names {
        guard kind == .ip || !value.contains(0) else { fatalError("a NUL in a name") }
        if let rest = CertificateNames.rest(kind, value), rest.count >= value.count { fatalError("the rest is longer") }
    }
    let (all, name) = (AlternativeNames(of: found), PeerName(certificate: found))
    guard all.dns.count + all.ip.count + all.uri.count + all.email.count <= names.names.count else {
        fatalError("names that no rule sees")
    }
    guard name.fingerprint?.utf8.count == 64, name.commonName?.utf8.contains(0) != true else {
        fatalError("\(name) is no name")
    }
    check(SessionNotes(certificate: SessionNotes.Certificate(name: name, names: names)))
}

private func notes(_ bytes: [UInt8]) {
    guard let notes = bytes.withUnsafeBytes({ try? SessionNotes(decoding: $0) }) else { return }
    if let names = notes.certificate?.names { _ = AlternativeNames(names) }
    check(notes)
}

/// What was understood is written in a form that is understood in the same way.
private func check(_ notes: SessionNotes) {
    guard notes.encoded.withUnsafeBytes({ try? SessionNotes(decoding: $0) }) == notes else {
        fatalError("\(notes) are others once they are written and read")
    }
}

/// Without its peer it is one, and has none.
private func session(_ bytes: [UInt8]) {
    if let rest = SessionBytes.withoutPeer(bytes) {
        guard rest.count <= bytes.count + 4, SessionBytes.withoutPeer(rest) == rest else {
            fatalError("\(bytes.count) bytes become \(rest.count)")
        }
    }
    guard let session = SessionBytes.decode(bytes) else { return }
    defer { SSL_SESSION_free(session) }
    _ = try? SessionNotes(of: session)
    if SessionBytes.dropPeerCertificate(of: session) { _ = SessionBytes.encoded(session) }
}

private func presharedKeys(_ bytes: [UInt8]) {
    let lines = bytes.count { $0 == UInt8(ascii: "\n") } + 1
    let (keys, problems) = PresharedKeyFile.parse(bytes)
    guard keys.count + problems.count <= lines else { fatalError("more keys than lines") }
    guard keys.allSatisfy({ $0.isUsable && $0.key.count >= PresharedKeyFile.minimumKeyLength }) else {
        fatalError("a key that OpenSSL does not take")
    }
    guard Set(keys.map(\.identity)).count == keys.count else { fatalError("an identity with two keys") }
    check(problems, in: lines)
}

private func publicKeys(_ bytes: [UInt8]) {
    let lines = bytes.count { $0 == UInt8(ascii: "\n") } + 1
    let (keys, problems) = PublicKeyFile.parse(bytes)
    guard keys.count <= lines else { fatalError("more keys than lines") }
    for key in keys {
        guard key.fingerprint.count == 32, (1...KnownPublicKey.maximumNameLength).contains(key.name.utf8.count) else {
            fatalError("\(key) is no key")
        }
    }
    check(problems, in: lines)
}

private func check(_ problems: [PresharedKeyFile.Problem], in lines: Int) {
    for problem in problems {
        guard (1...lines).contains(problem.line) else { fatalError("line \(problem.line) of \(lines)") }
    }
}
