import DTLSEngine
import Foundation
import Testing

@testable import DTLSDaemon

/// What operators copy from the documents works as it stands, and what they search for is what the daemon logs.
@Suite struct DocumentationTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../..")
        .standardized

    private static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    /// The blocks of a language in a document.
    private static func blocks(_ language: String, in document: String) throws -> [String] {
        try text(document).components(separatedBy: "\n```\(language)\n").dropFirst().compactMap {
            $0.components(separatedBy: "\n```").first
        }
    }

    private static let guides = [
        "README.md", "docs/first-service.md", "docs/certificates.md", "docs/connection-ids.md", "docs/iot.md",
        "docs/several-machines.md", "docs/moving.md",
    ]

    /// A folder with everything that configurations of the documents name, as files and as credentials.
    private func preparedFolder() throws -> ConfigurationFolder {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        for name in ["server", "privkey", "fullchain", "far", "near", "b", "ecdsa", "tls"] {
            for place in ["", "credentials/"] {
                try folder.write("\(place)\(name).crt", material.issuedCertificate)
                try folder.write(
                    "\(place)\(name).pem", name == "privkey" ? material.privateKey : material.issuedCertificate)
                try folder.write("\(place)\(name).key", material.privateKey)
            }
        }
        for place in ["", "credentials/"] {
            try folder.write("\(place)rsa.crt", material.rsaCertificate)
            try folder.write("\(place)rsa.key", material.rsaKey)
            try folder.write("\(place)cookie.secret", String(repeating: "s", count: 32))
            try folder.write("\(place)tickets.key", String(repeating: "1", count: 80))
            try folder.write("\(place)connection-ids.keys", "0 00112233445566778899aabbccddeeff")
            try folder.write("\(place)devices.psk", "sensor-7:00112233445566778899aabbccddeeff")
            try folder.write("\(place)psk.txt", "sensor-7:00112233445566778899aabbccddeeff")
        }
        let publicKey = "sensor-7 sha256:\(String(repeating: "0a", count: 32))"
        for name in ["devices.keys", "server.pub"] { try folder.write(name, publicKey) }
        try folder.write("client.key", material.privateKey)
        return folder
    }

    /// The problems of a configuration whose files are in a folder, but for those of an OpenSSL without raw public keys. Hosts
    /// are not looked up.
    private func problems(_ text: String, in folder: ConfigurationFolder) throws -> [String] {
        let settled = text.replacing("\"/etc/dtlsd/", with: "\"").replacing("\"/secrets/", with: "\"")
            .replacing("coap.default.svc", with: "127.0.0.1").replacing("\"coap.example.org:", with: "\"192.0.2.1:")
        try folder.write("dtlsd.toml", settled)
        do throws(ConfigurationProblems) {
            _ = try ConfigurationReader.read(
                file: "\(folder.path)/dtlsd.toml", environment: ["CREDENTIALS_DIRECTORY": "\(folder.path)/credentials"])
            return []
        } catch {
            return error.problems.map { "\($0)" }.filter { problem in
                RawPublicKeys.missing.map { !problem.contains($0) } ?? true
            }
        }
    }

    @Test(arguments: guides) func `every configuration of a document is valid`(document: String) throws {
        let folder = try preparedFolder()
        let service = """

            [service.other]
            listen = "127.0.0.1:4433"
            certificate = "server.crt"
            private_key = "server.key"
            handler = "echo"

            """
        var blocks = try Self.blocks("toml", in: document)
        // One that a command writes.
        for block in try Self.blocks("sh", in: document) {
            let parts = block.components(separatedBy: ">/etc/dtlsd/dtlsd.toml <<'END'\n").dropFirst()
            blocks += parts.compactMap { $0.components(separatedBy: "\nEND").first }
        }
        try #require(!blocks.isEmpty)
        for block in blocks {
            var text = block
            if !block.contains("[service.") && !block.contains("[client.") { text += service }
            // A block about certificates or connection IDs leaves the backend out.
            if block.contains("handler = \"forward\"") && !block.contains(".forward]") {
                text = text.replacing("handler = \"forward\"", with: "handler = \"echo\"")
            }
            #expect(try problems(text, in: folder) == [], "\(document):\n\(text)")
        }
    }

    @Test func `the configuration of the Kubernetes example is valid`() throws {
        let lines = try Self.text("deploy/kubernetes/dtlsd.yaml").components(separatedBy: "\n")
        let start = try #require(lines.firstIndex { $0.hasSuffix("dtlsd.toml: |") })
        let block = lines[(start + 1)...].prefix { $0.isEmpty || $0.hasPrefix("    ") }.map { $0.dropFirst(4) }
        #expect(block.count > 10)
        #expect(try problems(block.joined(separator: "\n"), in: preparedFolder()) == [])
    }

    @Test func `the configuration of the package is valid`() throws {
        #expect(try problems(Self.text("packaging/dtlsd.toml"), in: preparedFolder()) == [])
    }

    /// OpenSSL's own words.
    private static let reasons = [
        "no shared cipher", "unsupported protocol", "certificate verify failed",
        "peer did not return a certificate", "no application protocol", "unsafe legacy renegotiation disabled",
    ]

    @Test func `the log lines of the page on troubleshooting are those of the sources`() throws {
        var sources = ""
        let folders = ["DTLSDaemon", "DTLSEngine", "DTLSTransport", "LinuxSystem"]
        for folder in folders {
            let files = FileManager.default.enumerator(atPath: Self.root.appending(path: "Sources/\(folder)").path)
            while let file = files?.nextObject() as? String {
                if file.hasSuffix(".swift") { sources += try Self.text("Sources/\(folder)/\(file)") }
            }
        }
        // Literals that are put together are one text, and what is put into them is an ellipsis.
        let joined = sources.replacing(#/"\s*\+\s*"/#, with: "").replacing(#/\\\((?:[^()]|\([^()]*\))*\)/#, with: "…")
        var compared = 0
        for line in try Self.text("docs/troubleshooting.md").split(separator: "\n") where line.hasPrefix("| ") {
            let cell = line.dropFirst(2).split(separator: "|", omittingEmptySubsequences: false)[0]
            for (index, code) in cell.split(separator: "`", omittingEmptySubsequences: false).enumerated()
            where index % 2 == 1 && code.contains(" ") && !code.hasPrefix("FILE:") && !code.hasPrefix("alert ")
                && code != "bad certificate" && code != "certificate expired"
            {
                for part in code.split(separator: "…") where part.count > 3 && !Self.reasons.contains(String(part)) {
                    let words = part.trimmingCharacters(in: .whitespaces)
                    #expect(joined.contains(words), "\"\(words)\" is in no source")
                    compared += 1
                }
            }
        }
        #expect(compared > 20)
    }
}
