import DTLSEngine
import Testing

/// What is said of certificates before any handshake.
@Suite struct CertificateListTests {
    @Test func `a certificate that is not valid now is named with its date`() throws {
        let texts = try [("old", -3...(-2)), ("good", -1...1), ("new", 2...3)].map {
            try MadeCertificate($0, days: $1).pem()
        }
        let complaints = try CertificateList(pem: texts.joined()).outOfDate
        #expect(complaints.count == 2)
        #expect(complaints.first?.hasPrefix("the certificate of \"CN=old\" expired on 2") == true, "\(complaints)")
        #expect(complaints.last?.hasPrefix("the certificate of \"CN=new\" is not valid before 2") == true)
    }

    @Test func `the authorities that have no revocation list are named`() throws {
        let authorities = try ["one", "two", "three"].map { try MadeCertificate($0, isAuthority: true) }
        let lists = try authorities.dropLast().map { try RevocationLists(pem: $0.revocationList()) }
        let all = try CertificateList(pem: authorities.map { try $0.pem() }.joined())
        #expect(all.withoutList(in: lists) == ["\"CN=three\""])
        #expect(all.withoutList(in: Array(lists.prefix(1))) == ["\"CN=two\"", "\"CN=three\""])
    }

    @Test func `a broken PEM text is refused`() throws {
        let pem = try MadeCertificate("whole").pem()
        #expect(throws: OpenSSLError.self) { try CertificateList(pem: String(pem.prefix(100))) }
    }
}
