// Programs of cases that are called by name: "NAME good" or "NAME wrong" for each.
#pragma once

#include <cstdio>
#include <map>
#include <string>

using NamedCases = std::map<std::string, bool (*)()>;

// Exit status: 0 where all cases are good, 1 where one is wrong, 2 for a name that there is not.
inline int runNamed(NamedCases const& cases, int count, char** arguments) {
  bool all_good = true;
  for (int i = 1; i < count; ++i) {
    auto found = cases.find(arguments[i]);
    if (found == cases.end()) {
      fprintf(stderr, "no case %s\n", arguments[i]);
      return 2;
    }
    bool const good = found->second();
    printf("%s %s\n", arguments[i], good ? "good" : "wrong");
    fflush(stdout);
    all_good = all_good && good;
  }
  return all_good ? 0 : 1;
}
