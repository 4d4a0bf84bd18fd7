//! Which file of a crate imports which.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
};

use crate::source::{Source, Use};

/// A file, a name that it imports, and the file that defines the name.
pub(crate) type Import<'a> = (&'a str, &'a str, &'a str);

/// The files of a crate by module path (`""` for its root, `cache/store`), without those for tests.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    files: BTreeMap<String, Source>,
    /// For each file the files that it imports from, and a name that it imports.
    pub(crate) imports: BTreeMap<String, BTreeMap<String, String>>,
}

impl Graph {
    /// Reads the crate whose root is the file `root` in `folder`.
    pub(crate) fn read(folder: &Path, root: &str) -> Self {
        let mut graph = Self::default();
        graph.add(folder, &folder.join(root), String::new());
        let mut imports = BTreeMap::new();
        for (module, source) in &graph.files {
            imports.insert(module.clone(), graph.imports_of(module, source));
        }
        graph.imports = imports;
        graph
    }

    fn add(&mut self, folder: &Path, file: &Path, module: String) {
        let text = fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("could not read {}: {error}", file.display()));
        let source = Source::parse(&text);
        for child in &source.children {
            let name = if module.is_empty() { child.clone() } else { format!("{module}/{child}") };
            let file = folder.join(format!("{name}.rs"));
            let file = if file.exists() { file } else { folder.join(&name).join("mod.rs") };
            self.add(folder, &file, name);
        }
        self.files.insert(module, source);
    }

    fn imports_of(&self, module: &str, source: &Source) -> BTreeMap<String, String> {
        let used = source.uses.iter().filter(|it| {
            // A name that is only passed on is no import.
            it.name != "*" && (!it.exported || source.names.contains(&it.name))
        });
        let paths = used.map(|it| &it.path).chain(&source.paths);
        let mut imports = BTreeMap::new();
        for path in paths {
            if let Some(target) = self.definition(module, path, 20)
                && target != module
            {
                imports.entry(target.to_owned()).or_insert_with(|| path.join("::"));
            }
        }
        imports
    }

    /// The file that defines what `path` means in `module`. `None` for what other crates define,
    /// and for modules themselves. `steps` bounds the re-exports that are followed.
    fn definition(&self, module: &str, path: &[String], steps: usize) -> Option<&str> {
        let steps = steps.checked_sub(1)?;
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.item("", rest, steps),
            "self" => self.item(module, rest, steps),
            "super" => {
                let parent = parent(module)?;
                if rest.first().is_some_and(|name| name == "super") {
                    self.definition(parent, rest, steps)
                } else {
                    self.item(parent, rest, steps)
                }
            }
            _ => self.item(module, path, steps),
        }
    }

    /// The file that defines `path`, which starts with a name in `module`.
    fn item(&self, module: &str, path: &[String], steps: usize) -> Option<&str> {
        let steps = steps.checked_sub(1)?;
        let (name, rest) = path.split_first()?;
        let (module, source) = self.files.get_key_value(module)?;
        if source.items.contains(name) {
            return Some(module);
        }
        if source.children.contains(name) {
            let child = if module.is_empty() { name.clone() } else { format!("{module}/{name}") };
            return self.item(&child, rest, steps);
        }
        let follow =
            |it: &Use, rest: &[String]| self.definition(module, &[&it.path, rest].concat(), steps);
        if let Some(it) = source.uses.iter().find(|it| it.name == *name) {
            return if it.path[0] == *name { None } else { follow(it, rest) };
        }
        source.uses.iter().filter(|it| it.name == "*").find_map(|it| follow(it, path))
    }

    /// The groups of files that import each other, directly or through one another.
    pub(crate) fn circles(&self) -> Vec<Vec<&str>> {
        let reached: BTreeMap<_, _> =
            self.imports.keys().map(|module| (module.as_str(), self.reached(module))).collect();
        let mut circles = BTreeSet::new();
        for module in self.imports.keys() {
            let circle: Vec<_> = reached[module.as_str()]
                .iter()
                .copied()
                .filter(|other| reached[other].contains(module.as_str()))
                .collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// The shortest way around a circle: who imports which name from whom.
    pub(crate) fn shortest_circle<'a>(&'a self, circle: &[&'a str]) -> Vec<Import<'a>> {
        circle
            .iter()
            .filter_map(|file| self.way_back(file))
            .min_by_key(Vec::len)
            .unwrap_or_default()
    }

    fn way_back<'a>(&'a self, start: &'a str) -> Option<Vec<Import<'a>>> {
        let mut seen = BTreeSet::new();
        let mut ways = VecDeque::from([vec![]]);
        while let Some(way) = ways.pop_front() {
            let end = way.last().map_or(start, |(_, _, imported)| *imported);
            if end == start && !way.is_empty() {
                return Some(way);
            }
            for (imported, name) in &self.imports[end] {
                if seen.insert(imported.as_str()) {
                    ways.push_back([&way[..], &[(end, name.as_str(), imported.as_str())]].concat());
                }
            }
        }
        None
    }

    fn reached(&self, module: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = self.imports[module].keys().map(String::as_str).collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(self.imports[next].keys().map(String::as_str));
            }
        }
        reached
    }
}

fn parent(module: &str) -> Option<&str> {
    if module.is_empty() {
        return None;
    }
    Some(module.rsplit_once('/').map_or("", |(parent, _)| parent))
}
