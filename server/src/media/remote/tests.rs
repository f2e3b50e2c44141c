//! Hosts, addresses, redirects and sizes, against servers on this machine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::config::Span;

fn settings(hosts: &[&str], allow_http: bool) -> RemoteImages {
    let allow_hosts = hosts.iter().map(|&host| host.into()).collect();
    let timeout = Span(Duration::from_secs(5));
    RemoteImages { allow_hosts, allow_private_hosts: Vec::new(), allow_http, timeout }
}

/// The same for hosts inside the network, over http.
fn private(hosts: &[&str]) -> RemoteImages {
    let allow_private_hosts = hosts.iter().map(|&host| host.into()).collect();
    RemoteImages { allow_private_hosts, ..settings(&[], true) }
}

/// Nobody stops it.
static GO: AtomicBool = AtomicBool::new(false);

/// Answers one connection per given response, in order; returns the port.
fn serve(responses: Vec<String>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for response in responses {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.replace("PORT", &port.to_string()).as_bytes());
        }
    });
    port
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

#[test]
fn is_off_without_hosts() {
    assert!(Fetcher::new(&settings(&[], true), 10).is_none());
}

#[test]
fn refuses_before_connecting() {
    let fetcher = Fetcher::new(&settings(&["a.example", "*.b.example"], false), 10).unwrap();
    let refused = |url: &str| parse(url).and_then(|url| fetcher.check(&url)).unwrap_err().to_string();
    assert!(refused("http://a.example/").contains("https"));
    assert!(refused("ftp://a.example/").contains("https"));
    assert!(refused("/etc/passwd").contains("absolute"));
    assert!(refused("https://me:pw@a.example/").contains("password"));
    for host in ["https://b.example/", "https://xb.example/", "https://a.example.evil/", "https://[::1]/"] {
        assert!(refused(host).contains("allow_hosts"), "{host}");
    }
    assert_eq!(fetcher.check(&parse("https://x.B.example/").unwrap()).unwrap(), "x.b.example");
}

#[test]
fn other_ports_have_to_be_allowed_by_number() {
    let hosts = ["a.example", "*.b.example:8443", "[::1]", "[::2]:81"];
    let fetcher = Fetcher::new(&settings(&hosts, true), 10).unwrap();
    let check = |url: &str| fetcher.check(&parse(url).unwrap());
    for url in [
        "https://a.example/",
        "https://a.example:443/",
        "http://a.example/",
        "http://a.example:80/",
        "https://x.b.example:8443/",
        "https://[::1]/",
        "http://[::2]:81/",
    ] {
        assert!(check(url).is_ok(), "{url}");
    }
    for url in [
        "https://a.example:80/",
        "http://a.example:443/",
        "https://a.example:22/",
        "https://x.b.example/",
        "https://[::1]:81/",
        "http://[::2]/",
    ] {
        assert!(matches!(check(url), Err(FetchError::Host(_))), "{url}");
    }
    assert_eq!(
        check("https://a.example:22/").unwrap_err().to_string(),
        "images are not fetched from the host `a.example:22` (images.allow_hosts)"
    );
}

/// What is no port must not become the usual one. (An empty one is the usual one: RFC 3986, 3.2.3.)
#[test]
fn an_impossible_port_is_refused() {
    let fetcher = Fetcher::new(&settings(&["a.example", "a.example:80", "[::1]"], true), 10).unwrap();
    for (host, port) in [
        ("a.example", "65616"),
        ("a.example", "65536"),
        ("a.example", "0"),
        ("a.example", "99999999999999999999"),
        ("a.example", "80x"),
        ("[::1]", "65616"),
    ] {
        let error = fetcher.fetch(&format!("http://{host}:{port}/x"), &GO).unwrap_err();
        assert!(
            matches!(error, FetchError::Port(ref found) if found.contains(port)),
            "{host}:{port}: {error}"
        );
    }
    assert!(fetcher.check(&parse("http://a.example:/x").unwrap()).is_ok());
}

/// What is checked is what is connected to, however a host is spelt.
#[test]
fn other_spellings_of_an_address_are_that_address() {
    let fetcher = Fetcher::new(&settings(&["127.0.0.1", "a.example"], true), 10).unwrap();
    for url in ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://0177.0.0.1/"] {
        assert_eq!(fetcher.check(&parse(url).unwrap()).unwrap(), "127.0.0.1", "{url}");
        let error = fetcher.fetch(url, &GO).unwrap_err();
        assert!(matches!(error, FetchError::Address(_)), "{url}: {error}");
    }
    for url in ["http://a.example\\@127.0.0.2/", "http://\u{ff41}.example/"] {
        assert_eq!(fetcher.check(&parse(url).unwrap()).unwrap(), "a.example", "{url}");
    }
}

#[test]
fn an_operator_who_names_a_private_host_is_obeyed() {
    for host in ["127.0.0.1", "localhost"] {
        let port = serve(vec![ok("picture")]);
        let place = format!("{host}:{port}");
        let fetcher = Fetcher::new(&private(&[&place]), 10).unwrap();
        assert_eq!(fetcher.fetch(&format!("http://{place}/x"), &GO).unwrap(), b"picture");
    }
}

#[test]
fn a_private_host_opens_no_other_host_or_port() {
    let (port, other) = (serve(vec![redirect("http://127.0.0.1:PORT/y"); 2]), serve(vec![ok("secret")]));
    let fetcher = Fetcher::new(&private(&[&format!("localhost:{port}")]), 10).unwrap();
    let fetch = |host: &str, port: u16| fetcher.fetch(&format!("http://{host}:{port}/x"), &GO).unwrap_err();
    assert!(matches!(fetch("localhost", other), FetchError::Host(_)));
    assert!(matches!(fetch("127.0.0.1", port), FetchError::Host(_)));
    // A redirect goes through the same checks.
    assert!(
        matches!(fetch("localhost", port), FetchError::Host(host) if host == format!("127.0.0.1:{port}"))
    );
    // Allowed as a public host, it is still none.
    let hosts = [format!("localhost:{port}"), format!("127.0.0.1:{port}")];
    let both = RemoteImages { allow_private_hosts: vec![hosts[0].clone()], ..settings(&[&hosts[1]], true) };
    let error = Fetcher::new(&both, 10).unwrap().fetch(&format!("http://{}/x", hosts[0]), &GO).unwrap_err();
    assert!(matches!(error, FetchError::Address(ref host) if host == "127.0.0.1"), "{error}");
}

/// A name may point into the network, and not to this machine or the clouds' metadata unless that is what was
/// named.
#[test]
fn names_reach_the_network_and_literals_whatever_they_say() {
    let may = |entry: &str, address: &str| Entry::read(entry).may_have(address.parse().unwrap());
    for address in ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::7", "::ffff:10.1.2.3"] {
        assert!(may("minio.lan", address) && may("*.lan:9000", address), "{address}");
    }
    for address in [
        "127.0.0.1",
        "::1",
        "169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "::ffff:127.0.0.1",
        "fd00:ec2::254",
    ] {
        assert!(
            !may("minio.lan", address) && !may("*.lan", address) && !may("10.0.0.7", address),
            "{address}"
        );
    }
    for (entry, address) in [
        ("169.254.169.254", "169.254.169.254"),
        ("127.0.0.1:9000", "127.0.0.1"),
        ("[::1]:9000", "::1"),
        ("[fe80::1]", "fe80::1"),
        ("localhost", "127.0.0.1"),
        ("localhost:9000", "::1"),
    ] {
        assert!(may(entry, address), "{entry} {address}");
    }
    assert!(!may("localhost", "169.254.169.254") && !may("127.0.0.1", "127.0.0.2"));
}

#[test]
fn private_addresses_are_refused_by_whatever_name() {
    let port = serve(vec![ok("secret")]);
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let fetcher = Fetcher::new(&settings(&[&format!("{host}:{port}")], true), 10).unwrap();
        let error = fetcher.fetch(&format!("http://{host}:{port}/x"), &GO).unwrap_err();
        // Not `Transport`: that would mean that it tried.
        assert!(matches!(error, FetchError::Address(_)), "{host}: {error}");
    }
}

#[test]
fn follows_redirects_through_every_check() {
    let fetch = |port: u16| {
        let allowed = format!("127.0.0.1:{port}");
        let fetcher = Fetcher::with_guard(&settings(&[&allowed], true), 10, |_| true);
        fetcher.fetch(&format!("http://{allowed}/a"), &GO)
    };
    let port = serve(vec![redirect("/b"), redirect("http://127.0.0.1:PORT/c"), ok("picture")]);
    assert_eq!(fetch(port).unwrap(), b"picture");

    let port = serve(vec![redirect("http://localhost:PORT/x")]);
    let error = fetch(port).unwrap_err();
    assert!(matches!(error, FetchError::Host(host) if host == format!("localhost:{port}")));

    let port = serve(vec![redirect("http://127.0.0.1:22/x")]);
    let error = fetch(port).unwrap_err();
    assert!(matches!(error, FetchError::Host(host) if host == "127.0.0.1:22"));

    // The name is allowed, its address is not: the first hop resolves to a public one, the second does not.
    let port = serve(vec![redirect("http://127.0.0.2:PORT/x")]);
    let hosts = [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")];
    let allowed = settings(&[&hosts[0], &hosts[1]], true);
    let guarded = Fetcher::with_guard(&allowed, 10, |ip| ip != Ipv4Addr::new(127, 0, 0, 2));
    let error = guarded.fetch(&format!("http://127.0.0.1:{port}/a"), &GO).unwrap_err();
    assert!(matches!(error, FetchError::Address(host) if host == "127.0.0.2"));

    let error = fetch(serve(vec![redirect("/a"); 4])).unwrap_err();
    assert!(matches!(error, FetchError::Redirects), "{error}");
}

#[test]
fn bounds_size_and_reports_status() {
    let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into();
    let allowed = format!("127.0.0.1:{}", serve(vec![ok("12345"), ok("1234"), missing]));
    let fetcher = Fetcher::with_guard(&settings(&[&allowed], true), 4, |_| true);
    let url = format!("http://{allowed}/a");
    assert!(matches!(fetcher.fetch(&url, &GO).unwrap_err(), FetchError::TooLarge(4)));
    assert_eq!(fetcher.fetch(&url, &GO).unwrap(), b"1234");
    let error = fetcher.fetch(&url, &GO).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 404, .. }), "{error}");
}

#[test]
fn joins_relative_locations() {
    let base = parse("https://a.example/x/y?z").unwrap();
    for (location, expected) in [
        ("w", "https://a.example/x/w"),
        ("w?u=https://c.example/", "https://a.example/x/w?u=https://c.example/"),
        ("/w?u=https://c.example/../", "https://a.example/w?u=https://c.example/../"),
        ("?q", "https://a.example/x/y?q"),
        ("?u=a:b#f", "https://a.example/x/y?u=a:b"),
        ("./w:1#f", "https://a.example/x/w:1"),
        ("../v/./w", "https://a.example/v/w"),
        ("/../../w/..", "https://a.example/"),
        ("HTTP://c.example?q", "http://c.example/?q"),
        ("/w", "https://a.example/w"),
        ("//b.example/w", "https://b.example/w"),
        ("https://c.example/w", "https://c.example/w"),
        ("a b", "https://a.example/x/a%20b"),
    ] {
        assert_eq!(join(&base, location).unwrap().to_string(), expected);
    }
    for location in ["", "#f", "https://"] {
        assert!(join(&base, location).is_none(), "{location}");
    }
}
