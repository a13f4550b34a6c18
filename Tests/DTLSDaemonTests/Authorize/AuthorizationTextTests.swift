import DTLSEngine
import Foundation
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// What authorizers are asked, and what they answer, as JSON.
@Suite struct AuthorizationTextTests {
    private static func text(_ change: (inout AuthorizationQuestion) -> Void) throws -> AuthorizationText {
        var question = AuthorizationQuestion()
        change(&question)
        return AuthorizationText(
            service: "coap", peer: try #require(SocketAddress("[2001:db8::7]:40000")),
            local: try #require(SocketAddress("[2001:db8::1]:5684")), question: question)
    }

    /// The question's text, which has to be JSON.
    private func json(_ bytes: [UInt8]) throws -> String {
        _ = try #require(try JSONSerialization.jsonObject(with: Data(bytes)) as? [String: Any])
        return String(decoding: bytes, as: UTF8.self)
    }

    private static let beginning =
        #"{"version":1,"id":"00000000000000ab","service":"coap","peer":{"address":"2001:db8::7","port":40000},"#
        + #""local":{"address":"2001:db8::1","port":5684},"#

    @Test func `a question about a pre-shared key has its identity`() throws {
        let text = try Self.text {
            $0.presharedKeyIdentity = Array("sen\"sor\\\n\u{7f}ä".utf8)
            $0.serverName = "coap.example"
            $0.applicationProtocol = "coap"
        }
        #expect(
            try json(text.bytes(id: 0xab)) == Self.beginning
                + #""server_name":"coap.example","alpn":"coap","psk_identity":"sen\"sor\\\u000a\u007fä","#
                + #""psk_identity_hex":"73656e22736f725c0a7fc3a4","resumed":false}"#)
        let odd = try Self.text { $0.presharedKeyIdentity = [0xff, 0x01] }
        #expect(try json(odd.bytes(id: 1)).contains(##""psk_identity":"#ff01","##))
    }

    @Test func `a question about a raw public key has its name and fingerprint`() throws {
        let text = try Self.text { $0.publicKey = PeerName(fingerprint: "00ff", publicKeyName: "sensor-7") }
        #expect(
            try json(text.bytes(id: 0xab)) == Self.beginning
                + #""public_key":{"fingerprint":"00ff","name":"sensor-7"},"resumed":false}"#)
    }

    @Test func `a question about a certificate has its names, as far as there is room`() throws {
        let text = try Self.text {
            $0.isResumed = true
            $0.certificate = PeerName(commonName: "member", subject: "CN=member", fingerprint: "00ff")
            $0.alternativeNames.dns = ["a.example", "b.example"]
            $0.alternativeNames.ip = ["192.0.2.1"]
        }
        #expect(
            try json(text.bytes(id: 0xab)) == Self.beginning
                + #""certificate":{"fingerprint":"00ff","common_name":"member","subject":"CN=member","#
                + #""dns":["a.example","b.example"],"ip":["192.0.2.1"],"complete":true},"resumed":true}"#)
        let large = try Self.text {
            $0.certificate = PeerName(commonName: String(repeating: "n", count: 1_025), fingerprint: "00ff")
            $0.alternativeNames.uri = (0..<5_000).map { "coap://\($0).example" }
        }
        let cut = try json(large.bytes(id: 1))
        #expect(!cut.contains("common_name") && cut.contains("\"complete\":false"))
        #expect(cut.contains("coap://31.example") && !cut.contains("coap://32.example"))
    }

    @Test func `a client with nothing is asked about too`() throws {
        #expect(try json(try Self.text { _ in }.bytes(id: 0xab)) == Self.beginning + #""resumed":false}"#)
    }

    @Test func `an answer holds for the same client at the same address`() throws {
        let first = try Self.text { $0.presharedKeyIdentity = [0x61] }
        let again = AuthorizationText(
            service: first.service, peer: try #require(SocketAddress("[2001:db8::7]:1")), local: first.local,
            question: first.question)
        let moved = AuthorizationText(
            service: first.service, peer: try #require(SocketAddress("[2001:db8::8]:40000")), local: first.local,
            question: first.question)
        #expect(first.key == again.key && first.key != moved.key)
        #expect(try first.key != Self.text { $0.presharedKeyIdentity = [0x62] }.key)
        #expect(
            try first.key
                != Self.text {
                    $0.presharedKeyIdentity = [0x61]
                    $0.serverName = "b"
                }.key)
    }
}

@Suite struct VerdictTests {
    private static let id = "00000000000000ab"

    private func verdict(_ text: String) throws -> Verdict {
        try Array(text.utf8).withUnsafeBytes { try Verdict($0) }
    }

    @Test func `answers are read`() throws {
        #expect(try verdict(#"{"id":"\#(Self.id)","allow":true}"#) == Verdict(id: 0xab, answer: .allowed()))
        let whole = try verdict(
            #" {"id":"\#(Self.id)","allow":true,"label":"gold \u00e4","ttl":1.5,"key":"0011ff","more":[{}]} "#)
        #expect(
            whole
                == Verdict(
                    id: 0xab, answer: .allowed(key: [0, 0x11, 0xff], label: "gold ä"), lifetime: .milliseconds(1_500)))
        #expect(
            try verdict(#"{"id":"\#(Self.id)","allow":true,"label":null,"key":null,"ttl":null}"#)
                == Verdict(id: 0xab, answer: .allowed()))
        #expect(
            try verdict(#"{"id":"\#(Self.id)","allow":false,"ttl":5}"#)
                == Verdict(
                    id: 0xab, answer: .refused(reason: "the authorizer has refused the client"), lifetime: .seconds(5)))
        #expect(
            try verdict(#"{"id":"\#(Self.id)","allow":false,"reason":"lost\n"}"#).answer
                == .refused(reason: "the authorizer has refused the client: \"lost\\u{a}\""))
        #expect(try verdict(#"{"id":"\#(Self.id)","allow":true,"ttl":1e300}"#).lifetime == .seconds(1_000_000))
    }

    @Test(arguments: [
        ("", "it is no JSON; expected an object"), ("garbage", "it is no JSON; expected an object"),
        ("[]", "expected a JSON object"), ("{\"a\":1,\"a\":2}", "it is no JSON; expected an object"),
        ("{}", "\"id\": expected that of the question, 16 hexadecimal digits"),
        (#"{"id":"ab","allow":true}"#, "\"id\": expected that of the question, 16 hexadecimal digits"),
        (#"{"id":5,"allow":true}"#, "\"id\": expected a string"),
    ]) func `what is no answer to anything is told`(_ text: String, _ message: String) {
        #expect(throws: Verdict.Malformed(message: message)) { try verdict(text) }
    }

    @Test(arguments: [
        ("", "\"allow\" is missing; expected true or false"), (#","allow":"yes""#, "\"allow\": expected true or false"),
        (#","allow":true,"label":"""#, "\"label\": expected 1 to 64 bytes of text without control characters"),
        (#","allow":true,"label":"a\tb""#, "\"label\": expected 1 to 64 bytes of text without control characters"),
        (#","allow":true,"label":7"#, "\"label\": expected a string"),
        (#","allow":true,"key":"123""#, "\"key\": expected 1 to 512 bytes as hexadecimal digits"),
        (#","allow":true,"key":"""#, "\"key\": expected 1 to 512 bytes as hexadecimal digits"),
        (#","allow":true,"ttl":-1"#, "\"ttl\": expected a number of seconds, 0 or more"),
        (#","allow":true,"ttl":"1""#, "\"ttl\": expected a number of seconds, 0 or more"),
    ]) func `a wrong answer names its question`(_ more: String, _ message: String) {
        #expect(throws: Verdict.Malformed(id: 0xab, message: message)) {
            try verdict("{\"id\":\"\(Self.id)\"\(more)}")
        }
    }

    @Test func `a long answer is refused`() {
        #expect(throws: Verdict.Malformed(message: "it has 16385 bytes; expected at most 16384")) {
            try verdict(String(repeating: " ", count: 16_385))
        }
    }
}
