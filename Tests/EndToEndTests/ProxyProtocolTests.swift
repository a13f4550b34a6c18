import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Backends that are told of the clients by the PROXY protocol.
    @Suite struct ProxyProtocolTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        private func service(to backend: String, listen: SocketAddress, more: String = "") -> String {
            Service.forwarding(to: backend, listen: listen, identity: identity, more: more).text
                + "proxy_protocol = true\n"
        }

        /// A question for the A record of `name`, in bytes that are all ASCII, for s_client's standard input.
        private static func question(_ name: String) -> String {
            let labels = name.split(separator: ".").map { "\(Character(UnicodeScalar(UInt8($0.utf8.count))))\($0)" }
            return "\u{1}\u{1}\u{1}\0\0\u{1}\0\0\0\0\0\0" + labels.joined() + "\0\0\u{1}\0\u{1}"
        }

        /// dnsdist, which logs what each question's header has told it, and answers all by itself.
        private func startDnsdist(at address: SocketAddress) async throws -> Program {
            let file = try folder.write(
                """
                setSecurityPollSuffix("")
                setACL("0.0.0.0/0")
                setProxyProtocolACL("0.0.0.0/0")
                addLocal("\(address)")
                newServer({address="127.0.0.1:9", healthCheckMode="up"})
                function tell(question)
                  local line = question.qname:toString() .. " from " .. question.remoteaddr:toStringWithPort()
                    .. " to " .. question.localaddr:toStringWithPort()
                  for kind, value in pairs(question:getProxyProtocolValues()) do
                    line = line .. " " .. kind .. "="
                    for index = 1, #value do line = line .. string.format("%02x", value:byte(index)) end
                  end
                  infolog(line .. " end")
                  return DNSAction.Spoof, "192.0.2.99"
                end
                addAction(AllRule(), LuaAction(tell))
                """, to: "dnsdist.conf")
            let program = try Program(["dnsdist", "--supervised", "-C", file], in: folder, name: "dnsdist")
            try await eventually("dnsdist is there", details: program.output + program.errors) {
                ProcessTable.localPorts(of: program.pid).contains(address.port)
            }
            return program
        }

        /// What PP2_TYPE_SSL has in a header, in hexadecimal.
        private static func ssl(flags: String, verification: String, commonName: String?, cipher: String) -> String {
            func field(_ type: String, _ text: String) -> String {
                let bytes = Array(text.utf8)
                return type + ([0, UInt8(bytes.count)] + bytes).map { String(format: "%02x", $0) }.joined()
            }
            return flags + verification + field("21", "DTLSv1.2") + (commonName.map { field("22", $0) } ?? "")
                + field("23", cipher)
        }

        private static let cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"

        @Test func `dnsdist learns the client's address with every datagram`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let dnsdist = try await startDnsdist(at: place)
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(service(to: "udp:\(place)", listen: address), in: folder)
            let source = "127.12.\(UInt8.random(in: 1...254)).7"
            let client = try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                ["-bind", "\(source):0", "-servername", "device.example", "-cipher", Self.cipher])
            for number in 0..<3 {
                client.program.send(Self.question("q\(number).example"))
                // The answer has the question in it, and no header in front.
                try await eventually("question \(number) is answered", details: client.transcript + dnsdist.output) {
                    client.output.contains("q\(number)\u{7}example\0")
                }
            }
            #expect(client.output.hasPrefix("\u{1}\u{1}"))
            let opened = try #require(daemon.lines(with: "connection opened").first)
            let peer = try #require(opened.split(separator: " ").first { $0.hasPrefix("PEER=") }).dropFirst(5)
            #expect(peer.hasPrefix("\(source):"))
            let ssl = Self.ssl(flags: "01", verification: "00000001", commonName: nil, cipher: Self.cipher)
            let name = Array("device.example".utf8).map { String(format: "%02x", $0) }.joined()
            for number in 0..<3 {
                let told = try #require(
                    dnsdist.output.split(separator: "\n").first { $0.contains("q\(number).example") })
                #expect(told.contains(" from \(peer) to \(address) "))
                #expect(told.contains(" 2=\(name) "), "\(told)")
                #expect(told.contains(" 32=\(ssl) "), "\(told)")
            }
            try await daemon.stop()
        }

        /// A certificate is shown on the connection and in the session; when the session is resumed, only in that.
        @Test func `dnsdist learns the client's certificate`() async throws {
            let authority = try await CertificateMaker(folder: folder).selfSigned("authority")
            let own = try await CertificateMaker(folder: folder).issued("sensor-7", by: authority)
            let place = try SocketAddress.freeOnOwnLoopback()
            let dnsdist = try await startDnsdist(at: place)
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                service(to: "udp:\(place)", listen: address, more: "ca = \"\(authority.certificate)\""), in: folder)
            let session = folder.file("session.pem")
            for (flags, more) in [("07", ["-sess_out", session]), ("05", ["-sess_in", session])] {
                let client = try SecureClient(
                    to: address, trust: identity.certificate, in: folder,
                    ["-cert", own.certificate, "-key", own.privateKey, "-cipher", Self.cipher] + more)
                client.program.send(Self.question("f\(flags).example"))
                let told = try await eventualValue("dnsdist is asked", details: client.transcript + dnsdist.output) {
                    dnsdist.output.split(separator: "\n").first { $0.contains("f\(flags).example") }
                }
                let ssl = Self.ssl(
                    flags: flags, verification: "00000000", commonName: "sensor-7", cipher: Self.cipher)
                #expect(told.contains(" 32=\(ssl) "), "\(told)")
                try await client.leave()
            }
            try await daemon.stop()
        }

        /// There is no registered type for it: 0xE0, 224, is the first of everybody's own.
        @Test func `dnsdist learns the pre-shared key's identity`() async throws {
            try folder.write("sensor-7:00112233445566778899aabbccddeeff\n", to: "keys.psk")
            let place = try SocketAddress.freeOnOwnLoopback()
            let dnsdist = try await startDnsdist(at: place)
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                """
                [service.dns]
                listen = "\(address)"
                handler = "forward"
                psk.file = "keys.psk"
                forward = { backend = "udp:\(place)", proxy_protocol = true }

                """, in: folder)
            let cipher = "PSK-AES128-CCM8"
            let client = try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                [
                    "-psk_identity", "sensor-7", "-psk", "00112233445566778899aabbccddeeff",
                    "-cipher", "\(cipher):@SECLEVEL=0",
                ])
            client.program.send(Self.question("psk.example"))
            let told = try await eventualValue("dnsdist is asked", details: client.transcript + dnsdist.output) {
                dnsdist.output.split(separator: "\n").first { $0.contains("psk.example") }
            }
            let ssl = Self.ssl(flags: "01", verification: "00000001", commonName: nil, cipher: cipher)
            let name = Array("sensor-7".utf8).map { String(format: "%02x", $0) }.joined()
            #expect(told.contains(" 32=\(ssl) "), "\(told)")
            #expect(told.contains(" 224=\(name) "), "\(told)")
            try await daemon.stop()
        }

        enum BackendKind: CaseIterable { case ipv6, unix }

        @Test(arguments: BackendKind.allCases)
        func `every datagram to a backend begins with the header`(_ kind: BackendKind) async throws {
            let path = folder.file("backend.socket")
            let socket = try kind == .unix ? DatagramSocket(atPath: path) : DatagramSocket(at: .free(on: "::1"))
            let backend = Backend(on: [socket]) { received in
                // As much of it as follows the header, by the header's own length.
                guard received.bytes.count >= 16 else { return [Array("no header\n".utf8)] }
                return [Array(received.bytes.dropFirst(16 + Int(received.bytes[14]) * 256 + Int(received.bytes[15])))]
            }
            let address = try SocketAddress.free(on: "::1")
            let daemon = try await Daemon.start(
                service(to: kind == .unix ? "unix:\(path)" : "udp:\(socket.local)", listen: address), in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            let lines = ["one", String(repeating: "2", count: 5_000), "three"]
            for line in lines { try await client.exchange(line) }
            #expect(client.output == lines.map { $0 + "\n" }.joined())
            let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10, 0x21, 0x22]
            let loopback = [UInt8](repeating: 0, count: 15) + [1]
            let port = [UInt8(address.port >> 8), UInt8(address.port & 255)]
            for received in backend.received {
                #expect(received.bytes.starts(with: signature))
                #expect(Array(received.bytes[16..<48]) == loopback + loopback)
                #expect(Array(received.bytes[50..<52]) == port)
            }
            #expect(backend.received.count == lines.count)
            #expect(Set(backend.received.map { Array($0.bytes.prefix(52)) }).count == 1)
            try await daemon.stop()
            try await backend.stop()
        }
    }
}
