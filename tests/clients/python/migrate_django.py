"""Django: `migrate_django.py DATABASE N`: `migrate` to the migration number N of two."""
import os
import pathlib
import sys
import tempfile

import django
from django.conf import settings
from django.core.management import call_command

FIRST = """
from django.db import migrations, models
class Migration(migrations.Migration):
    initial = True
    operations = [migrations.CreateModel("Item", [("id", models.BigAutoField(primary_key=True))], options={"db_table": "django_tool"})]
"""
SECOND = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [("shop", "0001")]
    operations = [migrations.AddField("item", "price", models.DecimalField(max_digits=10, decimal_places=2, null=True))]
"""
database, upto = sys.argv[1], sys.argv[2]
with tempfile.TemporaryDirectory() as folder:
    migrations = pathlib.Path(folder) / "shop" / "migrations"
    migrations.mkdir(parents=True)
    (migrations.parent / "__init__.py").touch()
    (migrations / "__init__.py").touch()
    (migrations / "0001.py").write_text(FIRST)
    (migrations / "0002.py").write_text(SECOND)
    sys.path.insert(0, folder)
    settings.configure(
        INSTALLED_APPS=["shop"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": database, "USER": "postgres",
                               "HOST": os.environ["HOST"], "PORT": os.environ["PORT"],
                               "OPTIONS": {"application_name": "django"}}})
    django.setup()
    call_command("migrate", "shop", f"000{upto}", verbosity=0)
