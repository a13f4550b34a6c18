// Built by scripts/fuzz together with the engine's own source files, in one module.

import COpenSSL

/// What every run needs, made once: a minute passes with each call, so that the keys change too.
private final class Fuzzed {
    let authority: CookieAuthority
    let fragments = HelloFragments()
    var minute: UInt64 = 200
    let reply = UnsafeMutableRawBufferPointer.allocate(
        byteCount: CookieAuthority.helloVerifyRequestSize, alignment: 1)
    /// Of a connection of DTLS 1.2.
    var screen = RecordFilter()

    init() {
        do { authority = try CookieAuthority(secret: Array(repeating: 7, count: 32)) } catch { fatalError("\(error)") }
        let context = SSL_CTX_new(DTLS_client_method())
        guard let ssl = SSL_new(context) else { fatalError("no SSL") }
        screen.measure(ssl, payloadSize: 1_400)
        SSL_free(ssl)
        SSL_CTX_free(context)
    }
}

private nonisolated(unsafe) let fuzzed = Fuzzed()

/// A datagram of any bytes is put together and parsed; a hello is answered; and the same hello with the answer's cookie
/// is accepted.
@_cdecl("LLVMFuzzerTestOneInput")
func fuzzClientHello(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let original = UnsafeRawBufferPointer(start: bytes, count: count)
    screen(original)
    let datagram = fuzzed.fragments.join(original)
    let count = datagram.count
    if datagram.baseAddress != original.baseAddress {
        guard count <= original.count, Array(fuzzed.fragments.join(datagram)) == Array(datagram) else {
            fatalError("\(original.count) bytes were joined to \(count)")
        }
    }
    guard case .hello(let hello) = ClientHello.parse(datagram) else { return 0 }
    guard ClientHello.couldBePart(of: datagram) else { fatalError("a hello that is no part of one") }
    fuzzed.minute &+= 1
    // Any bytes are an address.
    let peer = hello.random
    let local = hello.cookie
    let size = fuzzed.authority.writeHelloVerifyRequest(
        answering: hello, peer: peer, local: local, minute: fuzzed.minute, into: fuzzed.reply)
    guard size > 0, size <= count else { fatalError("a reply of \(size) bytes to \(count)") }
    let again = hello.repeated(with: Array(fuzzed.reply.suffix(CookieAuthority.cookieSize)))
    again.withUnsafeBytes { datagram in
        guard case .hello(let again) = ClientHello.parse(datagram) else { fatalError("no hello with its cookie") }
        guard again.randomValue == hello.randomValue,
            fuzzed.authority.verify(again, peer: peer, local: local, minute: fuzzed.minute &+ 1)
        else { fatalError("the cookie is not good") }
        guard !fuzzed.authority.verify(again, peer: peer, local: local, minute: fuzzed.minute &+ 2) else {
            fatalError("the cookie is too good")
        }
    }
    _ = fuzzed.authority.verify(hello, peer: peer, local: local, minute: fuzzed.minute)
    return 0
}

/// What an engine takes of a datagram is a beginning of it, of which it takes all once more.
private func screen(_ datagram: UnsafeRawBufferPointer) {
    let taken = fuzzed.screen.established(datagram)
    guard taken.count <= datagram.count, fuzzed.screen.established(taken).count == taken.count else {
        fatalError("\(taken.count) bytes of \(datagram.count) are taken")
    }
    var (first, second) = (fuzzed.screen, fuzzed.screen)
    let begun = first.handshaking(datagram)
    guard begun.count <= datagram.count, second.handshaking(begun).count == begun.count else {
        fatalError("\(begun.count) bytes of \(datagram.count) are taken in a handshake")
    }
    guard let (alert, offset) = PlaintextAlert.find(in: datagram) else { return }
    guard offset < datagram.count, alert?.record.count ?? 15 == 15 else { fatalError("no alert at \(offset)") }
    _ = alert?.endsHandshake
}

extension ClientHello {
    /// The hello up to the compression methods as the first fragment of a longer message, with another cookie.
    fileprivate func repeated(with cookie: [UInt8]) -> [UInt8] {
        let body = Array(beforeCookie) + [UInt8(cookie.count)] + cookie + Array(afterCookie)
        let message = [1, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0] + bigEndian(body.count, 3) + body
        return [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 1] + bigEndian(message.count, 2) + message
    }

    private func bigEndian(_ value: Int, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - $0))) }
    }
}
