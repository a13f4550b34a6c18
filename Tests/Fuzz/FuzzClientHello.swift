// Built by scripts/fuzz, which lets it use the engine's internal names.

import COpenSSL
import Primitives

@testable import DTLSEngine

/// What every run needs, made once: a minute passes with each call, so that the keys change too.
private final class Fuzzed {
    let authority: CookieAuthority
    let fragments = HelloFragments()
    var minute: UInt64 = 200
    let reply = UnsafeMutableRawBufferPointer.allocate(
        byteCount: CookieAuthority.helloVerifyRequestSize, alignment: 1)
    /// What was read, so that no reading is left out.
    var sum: UInt64 = 0
    /// Of a connection of DTLS 1.2.
    var filter = RecordFilter()

    init() {
        do { authority = try CookieAuthority(secret: Array(repeating: 7, count: 32)) } catch { fatalError("\(error)") }
        let context = SSL_CTX_new(DTLS_client_method())
        guard let ssl = SSL_new(context) else { fatalError("no SSL") }
        filter.measure(ssl, payloadSize: 1_400)
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
    walk(original)
    filter(original)
    let datagram = fuzzed.fragments.join(original)
    let count = datagram.count
    if datagram.baseAddress != original.baseAddress {
        guard count <= original.count, Array(fuzzed.fragments.join(datagram)) == Array(datagram) else {
            fatalError("\(original.count) bytes were joined to \(count)")
        }
    }
    guard case .hello(let hello) = ClientHello.parse(datagram) else { return 0 }
    guard ClientHello.couldBePart(of: datagram) else { fatalError("a hello that is no part of one") }
    if hello.offersNoKnownVersion {
        let size = ProtocolVersionAlert(answering: hello).write(into: fuzzed.reply)
        guard size > 0, size < count else { fatalError("an alert of \(size) bytes to \(count)") }
    }
    // A name that lies in the hello, or none.
    if let name = hello.offeredSession {
        fuzzed.sum &+= name.withBytes { $0.reduce(0 as UInt64) { $0 &+ UInt64($1) } }
    }
    fuzzed.minute &+= 1
    // Any bytes are an address.
    let peer = hello.random
    let local = hello.cookie
    let size = fuzzed.authority.writeHelloVerifyRequest(
        answering: hello, peer: peer, local: local, minute: Minute(number: fuzzed.minute), into: fuzzed.reply)
    guard size > 0, size <= count else { fatalError("a reply of \(size) bytes to \(count)") }
    let again = hello.repeated(with: Array(fuzzed.reply.suffix(CookieAuthority.cookieSize)))
    again.withUnsafeBytes { datagram in
        guard case .hello(let again) = ClientHello.parse(datagram) else { fatalError("no hello with its cookie") }
        let verified = fuzzed.authority.verify(
            again, peer: peer, local: local, minute: Minute(number: fuzzed.minute &+ 1))
        guard let verified, verified.random == hello.randomValue else { fatalError("the cookie is not valid") }
        handOver(verified)
        if fuzzed.authority.verify(again, peer: peer, local: local, minute: Minute(number: fuzzed.minute &+ 2)) != nil {
            fatalError("the cookie is valid for too long")
        }
    }
    _ = fuzzed.authority.verify(hello, peer: peer, local: local, minute: Minute(number: fuzzed.minute))
    return 0
}

/// Another process gets the hello that was verified here.
private func handOver(_ hello: borrowing VerifiedHello) {
    let arrived = VerifiedHello(handedOver: hello.handover)
    guard let arrived, arrived.random == hello.random, arrived.datagram == hello.datagram else {
        fatalError("another hello has arrived")
    }
}

/// What an engine takes of a datagram is a beginning of it, of which it takes all once more.
private func filter(_ datagram: UnsafeRawBufferPointer) {
    let taken = fuzzed.filter.established(datagram)
    guard taken.count <= datagram.count, fuzzed.filter.established(taken).count == taken.count else {
        fatalError("\(taken.count) bytes of \(datagram.count) are taken")
    }
    var (first, second) = (fuzzed.filter, fuzzed.filter)
    let begun = first.handshaking(datagram)
    guard begun.count <= datagram.count, second.handshaking(begun).count == begun.count else {
        fatalError("\(begun.count) bytes of \(datagram.count) are taken in a handshake")
    }
    guard let record = PlaintextAlert.firstRecord(in: datagram) else { return }
    guard PlaintextAlert(record)?.record.count ?? 15 == 15 else { fatalError("no alert at \(record.offset)") }
}

/// The records of a datagram lie in it one after the other without a gap, and only the last can be incomplete.
private func walk(_ datagram: UnsafeRawBufferPointer) {
    var end = 0
    for record in Records(of: datagram) {
        guard record.offset == end, record.offset + Record.headerSize <= datagram.count else {
            fatalError("a record at \(record.offset), not at \(end)")
        }
        guard record.isComplete == (record.fragment.count == record.length), record.fragment.count <= record.length,
            record.bytes.count == Record.headerSize + record.fragment.count, record.precedingBytes.count == end
        else { fatalError("the record at \(end) is not all there, or more than that") }
        guard record.isComplete || record.end > datagram.count else { fatalError("a record behind a cut one") }
        // All bytes of it are read: under AddressSanitizer one too many is found.
        fuzzed.sum &+= record.bytes.reduce(0 as UInt64) { $0 &+ UInt64($1) }
        if let fragment = HandshakeFragment(record.fragment) {
            let (body, rest) = (fragment.body, fragment.rest)
            guard body.map({ $0.count + rest.count == record.fragment.count - HandshakeFragment.headerSize }) ?? true
            else { fatalError("a handshake message that is not in its record") }
            fuzzed.sum &+= body?.reduce(0 as UInt64) { $0 &+ UInt64($1) } ?? 0
        }
        end = record.end
    }
    guard end > datagram.count - Record.headerSize else { fatalError("a record is left out at \(end)") }
    rewrite(datagram)
}

/// Changing records changes nothing but their numbers, and an alert's description.
private func rewrite(_ datagram: UnsafeRawBufferPointer) {
    var copy = [UInt8](datagram)
    copy.withUnsafeMutableBytes {
        MutableRecord.renumber($0, by: 1 << 47)
        MutableRecord.renumber($0, by: 1 << 47)
        guard $0.elementsEqual(datagram) else { fatalError("numbers are not what they were") }
        MutableRecord.replaceFatalAlert(in: $0, by: 49)
        guard zip($0, datagram).count(where: { $0 != $1 }) <= 1 else { fatalError("more than one byte was changed") }
    }
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
